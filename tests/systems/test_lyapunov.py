"""Exponents beside closed forms and published values, dimensions and entropies beside exact ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from separatrix.runs import UsageError
from separatrix.systems import (
    EscapeError,
    System,
    correlation_dimension,
    dominant_period,
    find_system,
    histogram_distance,
    kaplan_yorke,
    lyapunov_spectrum,
    permutation_entropy,
    power_spectrum,
    simulate,
)
from separatrix.systems.lyapunov import orthonormalise
from separatrix.systems.system import Facts

GOLDEN = math.log((3 + math.sqrt(5)) / 2)


def linear(matrix: np.ndarray) -> System:
    names = tuple(f"x{i}" for i in range(len(matrix)))
    equations = tuple(
        " + ".join(f"({value!r})*{name}" for value, name in zip(row.tolist(), names, strict=True)) for row in matrix
    )
    return System("Linear", "flow", names, equations, {}, (1.0,) * len(matrix), measured=Facts(period=1.0))


def test_linear_system_has_the_real_parts_of_its_eigenvalues() -> None:
    matrix = np.array([[-0.1, 2.0, 0.3], [-2.0, -0.1, 0.1], [0.0, 0.0, -1.5]])
    found = lyapunov_spectrum(linear(matrix), time=100.0, copies=4, tolerance=1e-10)
    # turning vectors add a bounded amount to the logarithms: at most a few parts in the length of the run
    np.testing.assert_allclose(found.exponents, [-0.1, -0.1, -1.5], atol=0.01)
    assert found.exponents.sum() == pytest.approx(np.trace(matrix), abs=1e-7)


def test_part_of_a_spectrum() -> None:
    found = lyapunov_spectrum(find_system("Rossler"), count=1, time=300.0, copies=8)
    assert found.exponents.shape == (1,)
    assert math.isnan(found.kaplan_yorke)
    assert found.exponents[0] == pytest.approx(0.0714, abs=0.015)


def test_cat_map_is_exact() -> None:
    found = lyapunov_spectrum(find_system("Cat"), time=400, copies=4)
    np.testing.assert_allclose(found.exponents, [GOLDEN, -GOLDEN], atol=1e-9)
    assert found.kaplan_yorke == pytest.approx(2.0, abs=1e-6)
    assert found.entropy == pytest.approx(GOLDEN, abs=1e-9)


def test_logistic_map_at_four() -> None:
    found = lyapunov_spectrum(find_system("Logistic"), parameters={"r": 4.0}, time=4000, copies=64)
    assert abs(found.exponents[0] - math.log(2)) < 4 * found.errors[0]
    assert found.errors[0] < 0.005


def test_tent_map_is_its_slope() -> None:
    found = lyapunov_spectrum(find_system("Tent"), time=400, copies=4)
    assert found.exponents[0] == pytest.approx(math.log(2 * 0.95), abs=1e-12)


def test_henon_as_published_and_its_determinant() -> None:
    found = lyapunov_spectrum(find_system("Henon"), time=4000)
    assert abs(found.exponents[0] - 0.41922) < 4 * found.errors[0]  # Sprott (2003), Chaos and Time-Series Analysis
    assert found.exponents.sum() == pytest.approx(math.log(0.3), abs=1e-9)


def test_lorenz_sums_to_its_divergence() -> None:
    found = lyapunov_spectrum(find_system("Lorenz"), time=40.0, copies=16, transient=5.0)
    assert found.exponents.sum() == pytest.approx(-(10 + 1 + 8 / 3), rel=1e-6)
    assert abs(found.exponents[0] - 0.9056) < 4 * found.errors[0]
    assert abs(found.exponents[1]) < 0.03
    assert found.blocks.shape == (8, 3)


def test_a_conservative_flow_has_pairs_of_exponents() -> None:
    found = lyapunov_spectrum(find_system("HenonHeiles"), time=200.0, copies=8, transient=20.0)
    np.testing.assert_allclose(found.exponents, -found.exponents[::-1], atol=0.01)


def test_vectors_are_orthonormal() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 3, 7))
    expected = [abs(np.diag(np.linalg.qr(vectors[:, :, copy])[1])) for copy in range(7)]
    lengths = orthonormalise(vectors)
    np.testing.assert_allclose(lengths, np.stack(expected, axis=1), rtol=1e-12)
    products = np.einsum("ijc,ikc->cjk", vectors, vectors)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), (7, 3, 3)), atol=1e-12)


def test_what_cannot_be_asked() -> None:
    with pytest.raises(UsageError, match="has a delay"):
        lyapunov_spectrum(find_system("MackeyGlass"))
    with pytest.raises(UsageError, match="ask for 1 to 3, not 4"):
        lyapunov_spectrum(find_system("Lorenz"), count=4)
    with pytest.raises(UsageError, match="time must be positive"):
        lyapunov_spectrum(find_system("Lorenz"), time=-1.0)
    with pytest.raises(EscapeError, match="Henon"):
        lyapunov_spectrum(find_system("Henon"), parameters={"a": 3.0}, time=200)


@pytest.mark.parametrize(
    ("exponents", "expected"),
    [
        ([0.9056, 0.0, -14.5723], 2 + 0.9056 / 14.5723),
        ([-1.0, -2.0], 0.0),
        ([0.0, -1.0], 1.0),
        ([1.0, 0.5, -1.0, -1.0], 3.5),
        ([1.0, -1.0], 2.0),
        ([0.5], 1.0),
    ],
)
def test_kaplan_yorke(exponents: list[float], expected: float) -> None:
    assert kaplan_yorke(exponents) == pytest.approx(expected)
    assert kaplan_yorke(exponents[::-1]) == pytest.approx(expected)


def test_kaplan_yorke_of_nothing() -> None:
    with pytest.raises(UsageError, match="at least one"):
        kaplan_yorke([])
    with pytest.raises(UsageError, match="finite"):
        kaplan_yorke([math.nan])


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_correlation_dimension_of_cubes(dimension: int) -> None:
    points = np.random.default_rng(1).uniform(size=(8000, dimension))
    found = correlation_dimension(points, window=1)
    # edges of the cube take away up to a radius' share of a neighbourhood
    assert found.value == pytest.approx(dimension, abs=4 * found.error + 0.08)
    assert found.error < 0.1


def test_correlation_dimension_of_a_cantor_set() -> None:
    digits = np.random.default_rng(2).integers(0, 2, (8000, 30)) * 2
    points = (digits / 3.0 ** np.arange(1, 31)).sum(axis=1)[:, None]
    found = correlation_dimension(points, window=1, share=3e-3)
    assert found.value == pytest.approx(math.log(2) / math.log(3), abs=0.06)  # self-similar: the estimate oscillates


def test_a_window_keeps_the_trajectory_out() -> None:
    """Close in time means close in space on a finely sampled path: without a window it looks like a line."""
    generator = np.random.default_rng(3)
    corners = generator.uniform(size=(50, 2))
    share = np.linspace(0, 1, 160, endpoint=False)[None, :, None]
    path = (corners[:-1, None] * (1 - share) + corners[1:, None] * share).reshape(-1, 2)
    without, with_window = (correlation_dimension(path, window=window, share=2e-3).value for window in (1, 320))
    assert with_window > without + 0.3


def test_dimensions_of_too_little() -> None:
    with pytest.raises(UsageError, match="too few"):
        correlation_dimension(np.zeros((100, 2)), window=1)
    with pytest.raises(UsageError, match="all points are the same"):
        correlation_dimension(np.zeros((2000, 2)), window=1)
    with pytest.raises(UsageError, match="finite"):
        correlation_dimension(np.full((2000, 2), np.nan), window=1)


def test_permutation_entropy() -> None:
    noise = np.random.default_rng(4).normal(size=60_000)
    assert permutation_entropy(noise, order=4) == pytest.approx(math.log(24), abs=1e-3)
    assert permutation_entropy(np.arange(100.0)) == 0.0
    # of three values of x -> 4x(1 - x) one order never occurs (Bandt and Pompe 2002): x = sin^2(pi u), u uniform
    u = (np.arange(1_000_000) + 0.5) / 1_000_000
    triples = np.stack([np.sin(np.pi * u * 2**i) ** 2 for i in range(3)])
    shares = np.unique(np.argsort(triples, axis=0).T @ [9, 3, 1], return_counts=True)[1] / len(u)
    orbit = simulate(find_system("Logistic"), 200_000, parameters={"r": 4.0}).values[0, :, 0]
    assert len(shares) == 5
    expected = -(shares * np.log(shares)).sum()
    assert permutation_entropy(orbit, order=3) == pytest.approx(expected, abs=0.005)


def test_permutation_entropy_refuses() -> None:
    with pytest.raises(UsageError, match="order of 2 to 8"):
        permutation_entropy(np.arange(10.0), order=1)
    with pytest.raises(UsageError, match="more than 3 values"):
        permutation_entropy(np.arange(3.0))


def test_histogram_distance() -> None:
    generator = np.random.default_rng(5)
    first, second = generator.uniform(size=(2, 50_000, 2))
    assert histogram_distance(first, first) == 0.0
    assert histogram_distance(first, second) < 0.07  # 400 cells of 125 points: sqrt(400 / (8 * 25,000)) = 0.045
    assert histogram_distance(first, second + 10.0) == 1.0
    half = second[second[:, 0] < 0.5]
    # two uniform measures, one on half of the other: 1 - BC with BC = sqrt(1/2)
    assert histogram_distance(first, half) == pytest.approx(math.sqrt(1 - math.sqrt(0.5)), abs=0.02)
    with pytest.raises(UsageError, match="no common cells"):
        histogram_distance(first, first[:, :1])
    with pytest.raises(UsageError, match="finite"):
        histogram_distance(first, second * np.nan)


def test_power_spectrum_holds_the_variance() -> None:
    values = np.random.default_rng(6).normal(size=(20_000, 2)) * [1.0, 3.0]
    frequencies, power = power_spectrum(values, 0.1)
    np.testing.assert_allclose(power.sum(axis=0) * frequencies[1], values.var(axis=0), rtol=0.03)


@pytest.mark.parametrize("period", [0.7, 3.3])
def test_dominant_period(period: float) -> None:
    t = np.arange(4000) * 0.05
    noise = np.random.default_rng(7).normal(size=(4000, 2))
    drift = np.cumsum(noise, axis=0) * 0.01
    values = np.stack([np.sin(2 * np.pi * t / period), np.zeros(4000)], axis=1) + drift
    assert dominant_period(values, 0.05) == pytest.approx(period, rel=0.03)
    assert math.isnan(dominant_period(np.ones((100, 1)), 0.1, segments=2))
    with pytest.raises(UsageError, match="too few"):
        power_spectrum(values[:10], 0.05)


def test_errors_are_as_large_as_the_scatter_between_seeds() -> None:
    """The variance of 12 results over their mean stated one follows the F law of 11 and 12 times 11 degrees."""
    for name, time in (("Henon", 500), ("Lorenz", 10.0)):
        found = [lyapunov_spectrum(find_system(name), time=time, copies=12, seed=seed, count=1) for seed in range(12)]
        values = np.array([each.exponents[0] for each in found])
        variance = np.mean([each.errors[0] ** 2 for each in found])
        low, high = scipy.stats.f.ppf([0.001, 0.999], 11, 132)
        assert low < values.var(ddof=1) / variance < high, name
