"""Matrix sensing: the Riccati solution against an integrator, late rates against trainings, the modified step."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from separatrix.theory.matrix_sensing import (
    THEORY,
    Factors,
    asymmetric_rate,
    classify_decay,
    gram,
    rebalanced,
    symmetric_floor,
)

FINE = 1e-7


def _problem(**settings: object) -> Factors:
    found = THEORY.problem(THEORY.complete({"size": 12, **settings}), 4)
    assert isinstance(found, Factors)
    return found


def _flowed(problem: Factors, time: float) -> np.ndarray:
    """X X' or the Gram matrix of (F; G), by an integrator of the flow of the factors themselves."""
    count = problem.left.size

    def slope(_: float, flat: np.ndarray) -> np.ndarray:
        left = flat[:count].reshape(problem.left.shape)
        if problem.right is None:
            return -((left @ left.T - problem.target) @ left).ravel()
        right = flat[count:].reshape(problem.right.shape)
        off = left @ right.T - problem.target
        return -np.concatenate([(off @ right).ravel(), (off.T @ left).ravel()])

    start = problem.left if problem.right is None else np.concatenate([problem.left, problem.right])
    end = solve_ivp(slope, (0, time), start.ravel(), method="DOP853", rtol=1e-11, atol=1e-13).y[:, -1]
    stacked = end.reshape(start.shape)
    return np.asarray(stacked @ stacked.T)


@pytest.mark.parametrize("factors", ["symmetric", "asymmetric"])
def test_the_flow_is_that_of_an_integrator(factors: str) -> None:
    problem = _problem(factors=factors)
    for time in (2.0, 25.0):
        found = gram(problem, [round(time / FINE)], rate=FINE)[0]
        np.testing.assert_allclose(found, _flowed(problem, time), atol=3e-7)


def test_a_matrix_of_zeros_is_left_as_a_power() -> None:
    problem = dataclasses.replace(_problem(), target=np.zeros((12, 12)))
    first, later = gram(problem, [0, 5000])
    sizes = np.linalg.eigvalsh(first)
    expected = sizes / (1 + 2 * 5000 * problem.rate * sizes)
    np.testing.assert_allclose(np.linalg.eigvalsh(later), expected, atol=1e-12)


def test_the_floor_is_tight_late() -> None:
    problem = _problem(spare=2, init=0.4, rate=0.02)
    steps = [20_000, 40_000]
    distances = ((gram(problem, steps) - problem.target) ** 2).sum((1, 2))
    times = problem.rate * np.array(steps, dtype=float)
    floor = symmetric_floor(problem.target, problem.left, problem.rank, times)
    np.testing.assert_allclose(distances, floor, rtol=0.02)
    np.testing.assert_allclose(distances * 4 * times**2, problem.spare, rtol=0.1)


def test_the_late_rate_is_that_of_a_training_from_gaussian_factors() -> None:
    generator = np.random.default_rng(0)
    target = np.zeros((14, 10))
    target[0, 0], target[1, 1] = 1.0, 0.7
    left, right = (
        0.2 * generator.standard_normal((14, 4)) / 14**0.5,
        0.07 * generator.standard_normal((10, 4)) / 10**0.5,
    )
    expected = asymmetric_rate(target, left, right, 2)
    rate, distances = 0.3, []
    for _ in range(6000):
        off = left @ right.T - target
        distances.append((off**2).sum())
        left, right = left - rate * off @ right, right - rate * off.T @ left
    decay = classify_decay(range(6000), distances)
    assert decay.kind == "exponential"
    assert abs(decay.rate / rate / expected - 1) < 0.1


def test_the_modified_step_keeps_the_product() -> None:
    generator = np.random.default_rng(1)
    left, right = generator.standard_normal((9, 4)), generator.standard_normal((7, 4))
    one, other = rebalanced(left, right, 0.3)
    np.testing.assert_allclose(one @ other.T, left @ right.T, atol=1e-12)
    np.testing.assert_allclose(one.T @ one, 0.09 * np.eye(4), atol=1e-12)


STEPS = np.arange(1.0, 2001.0)


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0, 4.0])
def test_powers_are_told_whatever_their_origin(order: float) -> None:
    decay = classify_decay(STEPS, 3.0 * (STEPS + 170.0) ** -order)
    assert decay.kind == "polynomial"
    assert abs(decay.order / order - 1) < 0.02


def test_exponentials_are_told_down_to_rounding_and_with_a_second_mode() -> None:
    for values in (np.exp(-0.05 * STEPS) + 1e-31, np.exp(-0.01 * STEPS) + 5 * np.exp(-0.03 * STEPS)):
        decay = classify_decay(STEPS, values)
        assert decay.kind == "exponential"
        assert abs(decay.rate / -np.log(values[101] / values[100]) - 1) < 0.6
        assert decay.order > 20


def test_noise_that_hides_the_law_leaves_it_undecided() -> None:
    wobble = np.exp(0.3 * np.random.default_rng(0).standard_normal(2000))
    assert classify_decay(STEPS, wobble * (STEPS + 900) ** -1.0).kind == "undecided"
    with pytest.raises(ValueError, match="at least 24"):
        classify_decay(range(10), 0.5 ** np.arange(10))
    with pytest.raises(ValueError, match="positive"):
        classify_decay(range(10), np.zeros(10))
