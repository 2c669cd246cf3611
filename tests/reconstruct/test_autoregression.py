"""Autoregression against closed forms: eigenvalues, exponents, fixed points and cycles of known maps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from separatrix.reconstruct import TrajectoryError, fit, trajectories
from separatrix.reconstruct._polynomials import Monomials
from separatrix.reconstruct._regression import ridge


def logistic(rate: float, samples: int, start: float = 0.3) -> np.ndarray:
    values = [start]
    for _ in range(samples - 1):
        values.append(rate * values[-1] * (1 - values[-1]))
    return np.array(values)


def henon(samples: int) -> np.ndarray:
    values = [(0.1, 0.1)]
    for _ in range(samples - 1):
        x, y = values[-1]
        values.append((1 - 1.4 * x * x + y, 0.3 * x))
    return np.array(values)[100:]


def test_monomials_against_their_definition() -> None:
    monomials = Monomials(3, 4)
    points = np.random.default_rng(0).standard_normal((7, 3))
    assert monomials.size == len(monomials.factors) == 35
    expected = np.stack([np.prod(points[:, list(each)], axis=1) for each in monomials.factors], axis=1)
    np.testing.assert_allclose(monomials.values(points), expected, rtol=1e-13)
    weights = np.random.default_rng(1).standard_normal((35, 2)) * (np.arange(35) % 3 > 0)[:, None]
    sums = monomials.sums(weights)
    np.testing.assert_allclose(sums(points.T), (expected @ weights).T, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(sums(points[0]), expected[0] @ weights, rtol=1e-12)
    grid = points[:4].reshape(2, 2, 3)
    np.testing.assert_allclose(
        np.moveaxis(sums(np.moveaxis(grid, -1, 0)), 0, -1).reshape(4, -1), expected[:4] @ weights
    )
    assert not monomials.sums(0.0 * weights)(points.T).any()
    some = monomials.only(np.array([7, 3]))
    np.testing.assert_allclose(some(points.T), expected[:, some.indices].T, rtol=1e-12)
    assert {0, 3, 7} <= set(some.indices) < set(range(monomials.size))
    slopes, step = monomials.derivatives(points), 1e-6
    for variable in range(3):
        shift = np.eye(3)[variable] * step
        numeric = (monomials.values(points + shift) - monomials.values(points - shift)) / (2 * step)
        np.testing.assert_allclose(slopes[:, :, variable], numeric, atol=1e-6)
    assert Monomials(2, 2).named(("x", "y")) == ("1", "x", "y", "x x", "x y", "y y")


@pytest.mark.parametrize("columns", [5, 450])
def test_ridge_against_the_augmented_least_squares_problem(columns: int) -> None:
    generator = np.random.default_rng(1)
    inputs, targets = generator.standard_normal((600, columns)), generator.standard_normal((600, 2))
    scale = np.sqrt(np.mean(inputs**2, axis=0))
    penalised = np.vstack([inputs / scale, math.sqrt(0.01 * 600) * np.eye(columns)])
    expected = np.linalg.lstsq(penalised, np.vstack([targets, np.zeros((columns, 2))]), rcond=None)[0]
    np.testing.assert_allclose(ridge(inputs, targets, 0.01), expected / scale[:, None], rtol=1e-8, atol=1e-10)


def test_a_linear_system_has_its_eigenvalues_and_exponents() -> None:
    matrix = np.array([[0.9, 0.3], [-0.2, 0.7]])
    points = [np.array([1.0, -2.0])]
    for _ in range(60):
        points.append(matrix @ points[-1] + np.array([0.5, 0.1]))
    model = fit(np.array(points), "var", dt=0.1, lags=1, ridge=0.0)
    analysis = model.analyse()
    expected = np.linalg.eigvals(matrix)
    np.testing.assert_allclose(np.sort_complex(analysis.eigenvalues), np.sort_complex(expected), atol=1e-9)
    np.testing.assert_allclose(analysis.exponents, np.sort(np.log(np.abs(expected)))[::-1] / 0.1, atol=1e-8)
    (point,) = analysis.fixed_points
    np.testing.assert_allclose(point.points[0], np.linalg.solve(np.eye(2) - matrix, [0.5, 0.1]), atol=1e-8)
    assert point.stable


def test_the_logistic_map_has_its_exponent_and_its_cycles() -> None:
    model = fit(logistic(4.0, 400), "ndvar", dt=1.0, lags=1, ridge=0.0)
    analysis = model.analyse()
    assert abs(analysis.exponents[0] - math.log(2)) < 0.02  # 3000 steps: a standard error of about 0.01
    fixed = sorted(float(each.points[0, 0]) for each in analysis.fixed_points)
    np.testing.assert_allclose(fixed, [0.0, 0.75], atol=1e-8)
    twos = [each for each in analysis.cycles if len(each.points) == 2]
    assert len(twos) == 1
    np.testing.assert_allclose(np.sort(twos[0].points[:, 0]), (5 + np.array([-1, 1]) * math.sqrt(5)) / 8, atol=1e-8)
    np.testing.assert_allclose(twos[0].multipliers, -4.0, atol=1e-6)  # the product of 4 (1 - 2 x) around it
    threes = [each for each in analysis.cycles if len(each.points) == 3]
    assert sorted(round(float(each.multipliers[0].real)) for each in threes) == [-8, 8]


def test_the_henon_map_is_recovered_from_one_variable() -> None:
    model = fit(henon(700)[:, 0], "ndvar", dt=1.0, lags=2, ridge=0.0)
    analysis = model.analyse()
    root = (-0.7 + np.array([-1, 1]) * math.sqrt(0.49 + 5.6)) / 2.8
    fixed = sorted(float(each.points[0, 0]) for each in analysis.fixed_points)
    np.testing.assert_allclose(fixed, root, atol=1e-7)
    assert abs(analysis.exponents[0] - 0.419) < 0.02  # published 0.4192, over 3000 steps


def test_skipped_lags_reach_back_as_far_as_they_say() -> None:
    generator = np.random.default_rng(2)
    values = list(generator.standard_normal(7))
    for _ in range(300):
        values.append(0.9 * values[-7] - 0.2 * values[-4])
    model = fit(np.array(values), "var", dt=1.0, lags=3, skip=3, ridge=0.0)
    assert model.history == 7
    np.testing.assert_allclose(model.forecast(np.array(values[:200])[:, None], 5)[:, 0], values[200:205], atol=1e-9)


def test_too_many_monomials_and_too_few_samples_are_refused() -> None:
    with pytest.raises(TrajectoryError, match="monomials up to degree 4"):
        fit(np.random.default_rng(0).standard_normal((50, 20)), "ndvar", dt=1.0, degree=4, lags=2)
    with pytest.raises(TrajectoryError, match="9 are needed"):
        fit(np.arange(5.0), "var", dt=1.0, lags=8)


def test_analyses_survive_a_free_run_that_goes_astray() -> None:
    growing = trajectories(1.2 ** np.arange(30)[:, None] * np.array([[1.0, 0.5]]), 1.0)
    analysis = fit(growing, "ndvar", lags=1, degree=3).analyse()
    assert analysis.exponents is None or np.isfinite(analysis.exponents).all()
