"""Incremental rank: times, exponents and slopes against the flow of small factors and against closed sums."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from separatrix.theory.incremental_rank import (
    THEORY,
    distance_exponent,
    learning_slopes,
    learning_times,
    measured_distance_exponent,
    mode_starts,
    mode_strengths,
)
from separatrix.theory.matrix_sensing import Factors, gram

VALUES = np.array([1.0, 0.5, 0.25])


def _factors(columns: int, scale: float, rate: float = 0.02) -> Factors:
    start = np.random.default_rng(3).standard_normal((8, columns))
    return Factors(np.diag([*VALUES, 0, 0, 0, 0, 0]), scale * start, None, 0.0, rate, 3)


def test_starts_are_distances_from_the_rows_before() -> None:
    start = np.random.default_rng(0).standard_normal((6, 2))
    found = mode_starts(np.eye(6)[:, :4], start)
    along = start[0] / np.linalg.norm(start[0])
    assert found[0] == pytest.approx(start[0] @ start[0])
    assert found[1] == pytest.approx(((start[1] - along * (along @ start[1])) ** 2).sum())
    assert not found[2:].any()


@pytest.mark.parametrize("columns", [2, 3, 6])
def test_a_training_learns_each_mode_at_its_time(columns: int) -> None:
    problem = _factors(columns, 1e-10)
    starts = mode_starts(np.eye(8)[:, :3], problem.left)
    times = learning_times(VALUES, starts, problem.rate)
    factor, seen = problem.left, []
    for _ in range(8000):
        seen.append(np.linalg.eigvalsh(factor.T @ factor)[::-1][:2])
        factor = factor - problem.rate * (factor @ (factor.T @ factor) - problem.target @ factor)
    half = (np.array(seen) > VALUES[:2] / 2).argmax(0)
    np.testing.assert_allclose(half, times[:2], rtol=0.003)
    assert np.isinf(times[columns:]).all()


def test_strengths_start_end_and_stay_out() -> None:
    starts = np.array([1e-8, 1e-6, 0.0])
    found = mode_strengths(VALUES, starts, 0.01, [0, 100_000])
    np.testing.assert_allclose(found, [starts, [1.0, 0.5, 0.0]], rtol=1e-9)


def test_the_distance_shrinks_with_its_exponent() -> None:
    fit = np.diag([1.0, 0, 0, 0, 0, 0, 0, 0])
    least = []
    for scale in (1e-8, 1e-12):
        problem = dataclasses.replace(_factors(4, scale), rate=0.05)
        around = -np.log(scale) * 2 / 1.5 / 0.05
        steps = np.arange(0.8 * around, 1.2 * around, 4).round().astype(int)
        least.append(np.sqrt(((gram(problem, steps.tolist()) - fit) ** 2).sum((1, 2))).min())
    found = np.log(least[0] / least[1]) / np.log(1e4)
    assert abs(found / distance_exponent(1.0, 0.5) - 1) < 0.05
    assert measured_distance_exponent(1.0, 0.5) == pytest.approx(1 / 3)


def test_slopes_without_noise_are_inverse_eigenvalues() -> None:
    growth = [VALUES[s:] for s in range(3)]
    np.testing.assert_allclose(learning_slopes(growth), 1 / VALUES)
    other = learning_slopes([np.array([1.0, 0.6]), np.array([0.5])])
    np.testing.assert_allclose(other, [1.0, 1.8])


def test_too_few_columns_end_at_the_best_fit() -> None:
    settings = THEORY.complete({"columns": 1, "size": 12, "init": 1e-3})
    problem = THEORY.problem(settings, 0)
    last = THEORY.predicted(problem)
    assert last["fit_distance"][-1, 0] < 1e-3 < last["fit_distance"][-1, 1]
