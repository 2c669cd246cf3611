"""Convex problems of the schedule studies: subgradients that are some, and a worst function as bad as its formula."""

from __future__ import annotations

import numpy as np
import pytest

from separatrix.steer.schedules import cosine, last_iterate_bound, linear, wsd
from separatrix.studies._convex import Subgradient, absolute, absolute_regression, adversary, descend

STEPS = 60
RATES = {"falling": linear(STEPS).values(), "wsd": wsd(STEPS).values(), "drawn": np.random.default_rng(2).random(STEPS)}


@pytest.mark.parametrize("problem", ["absolute", "regression"])
def test_subgradients_lie_below_the_function_everywhere(problem: str) -> None:
    generator = np.random.default_rng(0)
    oracle: Subgradient = absolute if problem == "absolute" else absolute_regression(20, 4, generator)[0]
    for _ in range(50):
        point, other = generator.normal(size=(2, 4))
        loss, gradient = oracle(point)
        assert oracle(other)[0] >= loss + gradient @ (other - point) - 1e-12


def test_the_planted_vector_is_the_optimum() -> None:
    oracle, distance = absolute_regression(20, 4, np.random.default_rng(0))
    generator = np.random.default_rng(0)
    generator.normal(size=(20, 4))
    planted = generator.normal(size=4)
    assert oracle(planted)[0] == pytest.approx(0.0, abs=1e-12)
    assert distance == pytest.approx(float(np.linalg.norm(planted)))


def _pieces(rates: np.ndarray) -> np.ndarray:
    """The worst function's linear pieces, written out: (T, T)."""
    count = len(rates)
    found = np.zeros((count, count))
    for i in range(count):
        for j in range(i):
            later = sum(rates[j + 1 : count - 1])
            found[i, j] = rates[j] / (2 * later) if j < count - 2 else 0.5
        found[i, i] = -1.0
    return found


@pytest.mark.parametrize("name", RATES)
def test_the_adversary_answers_with_a_subgradient_of_its_function(name: str) -> None:
    rates = RATES[name]
    pieces, oracle, point = _pieces(rates), adversary(rates), np.zeros(STEPS)
    for step in range(STEPS):
        loss, gradient = oracle(point)
        assert loss == pytest.approx(max(0.0, float((pieces @ point).max())), abs=1e-12)
        np.testing.assert_allclose(gradient, pieces[step])
        assert gradient @ point == pytest.approx(loss, abs=1e-12)  # the piece is active there
        point = point - rates[step] * gradient


@pytest.mark.parametrize("name", RATES)
def test_the_last_iterate_is_as_bad_as_the_formula_and_within_the_bound(name: str) -> None:
    rates = RATES[name]
    found = descend(adversary(rates), np.zeros(STEPS), rates)
    summed = sum(rates[j] ** 2 / (4 * sum(rates[j + 1 : STEPS - 1])) for j in range(STEPS - 2))
    last = found.losses[-1] - summed
    assert last == pytest.approx(rates[STEPS - 2] / 2, abs=1e-12)
    assert found.losses[-1] <= last_iterate_bound(rates, 1e-9, found.norms).noise


def test_descent_is_what_it_says() -> None:
    found = descend(absolute, np.array([1.0, -0.5]), cosine(3).values())
    point = np.array([1.0, -0.5])
    for step, rate in enumerate(cosine(3).values()):
        assert found.losses[step] == np.abs(point).sum()
        assert found.norms[step] == np.linalg.norm(np.sign(point))
        point = point - rate * np.sign(point)
