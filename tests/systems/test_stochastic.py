"""Strong orders beside exact solutions on the same Wiener path, stationary laws, and bad input."""

from __future__ import annotations

import numpy as np
import pytest

from separatrix.runs import UsageError
from separatrix.systems import DescriptionError, EscapeError, System, find_system, simulate, simulate_stochastic

GEOMETRIC = System("Geometric", "flow", ("x",), ("a*x",), {"a": 0.7, "b": 0.8}, (1.0,))
RELAXING = System("Relaxing", "flow", ("x", "y"), ("-x", "-2*y"), {}, (0.0, 0.0))
LEVELS = (8, 16, 32, 64, 128)
COPIES = 2000


def strong_errors(method: str, exact_drift: float) -> np.ndarray:
    """Mean errors at time 1 for the numbers of steps of LEVELS, all on one set of Wiener paths."""
    fine = np.random.default_rng(0).standard_normal((LEVELS[-1], 1, COPIES)) * LEVELS[-1] ** -0.5
    exact = np.exp(exact_drift + 0.8 * fine.sum(axis=0)[0])
    errors = []
    for steps in LEVELS:
        increments = fine.reshape(steps, -1, 1, COPIES).sum(axis=1)
        found = simulate_stochastic(
            GEOMETRIC,
            2,
            {"x": "b*x"},
            method=method,
            substeps=steps,
            dt=1.0,
            initial=np.ones((COPIES, 1)),
            increments=increments,
        )
        errors.append(np.abs(found.values[:, -1, 0] - exact).mean())
    return np.array(errors)


@pytest.mark.parametrize(
    ("method", "drift", "order"),
    [("euler-maruyama", 0.7 - 0.8**2 / 2, 0.5), ("heun", 0.7, 1.0)],
    ids=["Ito", "Stratonovich"],
)
def test_strong_order(method: str, drift: float, order: float) -> None:
    errors = strong_errors(method, drift)
    slope = -np.polyfit(np.log(LEVELS), np.log(errors), 1)[0]
    # means of 2,000 paths that all levels share: the slope scatters by a few hundredths
    assert slope == pytest.approx(order, abs=0.12)


def test_each_method_solves_its_own_equation_only() -> None:
    """The control: against the other interpretation's solution the error does not fall."""
    for method, drift in (("euler-maruyama", 0.7), ("heun", 0.7 - 0.8**2 / 2)):
        errors = strong_errors(method, drift)
        assert errors[-1] > 0.5 * errors[0]


def test_stationary_variance() -> None:
    found = simulate_stochastic(RELAXING, 2, 0.5, dt=8.0, substeps=400, initial=np.zeros((4000, 2)), seed=1)
    # sigma^2 / (2 theta); the variance of 4,000 draws is known to 2.2 %, Euler's step adds theta dt / 2
    np.testing.assert_allclose(found.values[:, -1].var(axis=0), [0.125, 0.0625], rtol=0.1)


def test_without_noise_it_is_the_flow() -> None:
    lorenz = find_system("Lorenz")
    found = simulate_stochastic(lorenz, 20, 0.0, method="heun", dt=0.02, substeps=200)
    np.testing.assert_allclose(found.values, simulate(lorenz, 20, dt=0.02).values, atol=1e-3)


def test_the_phase_of_a_drive_stays_exact() -> None:
    duffing = find_system("Duffing")
    found = simulate_stochastic(duffing, 5, 0.1, dt=0.1, seed=2)
    expected = duffing.initial[2] + duffing.parameters["omega"] * found.times
    np.testing.assert_allclose(found.values[0, :, 2], expected, rtol=1e-12)


def test_seeds() -> None:
    first, again, other = (simulate_stochastic(RELAXING, 5, 1.0, dt=0.1, seed=seed).values for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_does_not_fit() -> None:
    with pytest.raises(UsageError, match="is a map"):
        simulate_stochastic(find_system("Henon"), 2, 0.1)
    with pytest.raises(UsageError, match="method among"):
        simulate_stochastic(RELAXING, 2, 0.1, dt=0.1, method="milstein")
    with pytest.raises(UsageError, match="increments have shape"):
        simulate_stochastic(RELAXING, 2, 0.1, dt=0.1, increments=np.zeros((3, 2, 1)))
    with pytest.raises(DescriptionError, match="no variable 'q' to add noise to"):
        simulate_stochastic(RELAXING, 2, {"q": 0.1}, dt=0.1)
    with pytest.raises(EscapeError, match="use more substeps or less noise"):
        simulate_stochastic(GEOMETRIC, 3, {"x": "x**3"}, dt=10.0, substeps=50, seed=0, initial=[[5.0]] * 4)
