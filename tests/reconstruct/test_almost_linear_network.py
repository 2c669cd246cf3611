"""Normal equations of almost-linear networks against autograd, and damped least squares where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from separatrix.reconstruct._almost_linear_network import AlmostLinearNetwork
from separatrix.reconstruct._damped_least_squares import NormalEquations, damped_least_squares
from separatrix.reconstruct._evolution import evolved
from separatrix.reconstruct.piecewise_linear import PiecewiseLinearMap


def _residuals(network: AlmostLinearNetwork, numbers: Tensor, window: Tensor, interval: int) -> Tensor:
    """The definition, literally."""
    states, seen, units = network.states, network.seen, network.units
    rows, leak, embedding = network.parts(numbers)
    state = torch.cat([window[0], window[0] @ embedding[:, :-1].T + embedding[:, -1]], 1)
    residuals = []
    for step, target in enumerate(window[1:]):
        if step and step % interval == 0:
            state = torch.cat([window[step], state[:, seen:]], 1)
        passed = torch.cat([state[:, : states - units], state[:, states - units :].relu()], 1)
        kept = torch.cat([torch.zeros(states - units, dtype=state.dtype), leak]) * state
        state = kept + passed @ rows[:, :-1].T + rows[:, -1]
        residuals.append(state[:, :seen] - target)
    return torch.stack(residuals).flatten()


@pytest.mark.parametrize(("states", "units", "interval"), [(5, 2, 3), (4, 0, 20), (2, 0, 5), (4, 2, 1), (13, 1, 5)])
def test_normal_equations_are_those_of_autograd(states: int, units: int, interval: int) -> None:
    generator = torch.Generator().manual_seed(0)
    network = AlmostLinearNetwork(states, 2, units)
    numbers = 0.3 * torch.randn(sum(network.sizes), dtype=torch.float64, generator=generator)
    window = torch.randn(13, 4, 2, dtype=torch.float64, generator=generator)
    residuals = _residuals(network, numbers, window, interval)
    rates = torch.autograd.functional.jacobian(
        lambda each: _residuals(network, each, window, interval), numbers, vectorize=True
    )
    found = network.equations(numbers, window, interval)
    torch.testing.assert_close(found.gram, rates.T @ rates / len(residuals), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.gradient, rates.T @ residuals / len(residuals), rtol=1e-9, atol=1e-12)
    error = float(residuals.square().mean())
    assert found.error == pytest.approx(error, rel=1e-12)
    assert network.error(numbers, window, interval) == pytest.approx(error, rel=1e-12)


def _rosenbrock(numbers: Tensor) -> Tensor:
    return torch.stack([10 * (numbers[1] - numbers[0] ** 2), 1 - numbers[0]])


def test_damped_least_squares_walk_the_valley_of_rosenbrock() -> None:
    def equations(numbers: Tensor, step: int) -> NormalEquations:
        rates = torch.autograd.functional.jacobian(_rosenbrock, numbers)
        residuals = _rosenbrock(numbers)
        return NormalEquations(float(residuals @ residuals), rates.T @ residuals, rates.T @ rates)

    errors = [math.inf]

    def error(numbers: Tensor, step: int) -> float:
        return float(_rosenbrock(numbers).square().sum())

    numbers = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    for steps in (5, 10, 40):
        found = damped_least_squares(numbers, equations, error, steps)
        errors.append(error(found, 0))
    assert errors == sorted(errors, reverse=True)
    np.testing.assert_allclose(found.numpy(), [1.0, 1.0], atol=1e-6)


def test_errors_that_are_not_finite_are_steps_not_taken() -> None:
    start = torch.tensor([2.0], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    found = damped_least_squares(
        start, lambda numbers, step: NormalEquations(1.0, one, one[None]), lambda numbers, step: math.nan, 3
    )
    assert found is start


def test_free_runs_are_those_of_each_map() -> None:
    generator = torch.Generator().manual_seed(0)
    network = AlmostLinearNetwork(4, 2, 1)
    copies = 0.3 * torch.randn(3, sum(network.sizes), dtype=torch.float64, generator=generator)
    observed = torch.randn(5, 2, dtype=torch.float64, generator=generator)
    shown = network.free_runs(copies, observed, 6, 3)
    for which, numbers in enumerate(copies):
        system = PiecewiseLinearMap(*(each.numpy() for each in network.full(numbers)))
        orbit = system.orbit(network.start(numbers, observed).numpy(), 9)
        np.testing.assert_allclose(shown[:, which].numpy(), orbit[4:, :, :2], rtol=1e-10, atol=1e-12)


def test_the_search_finds_a_minimum_along_directions_of_very_unequal_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    stretched = torch.diag(torch.logspace(0, 1.8, 6, dtype=torch.float64))
    target = torch.linalg.solve(stretched, torch.randn(6, dtype=torch.float64, generator=generator))
    zeros = torch.zeros(6, dtype=torch.float64)

    def score(copies: Tensor) -> np.ndarray:
        distances: np.ndarray = ((copies - target) @ stretched).square().sum(1).numpy()
        return distances

    def found(gram: Tensor) -> float:
        equations = NormalEquations(1.0, zeros, gram)
        best = evolved(zeros, equations, score, generations=60, copies=16, generator=generator)
        return float(score(best[None])[0])

    assert found(stretched.square()) < 1e-3 < 1e-2 < found(torch.eye(6, dtype=torch.float64))
    still = evolved(zeros, NormalEquations(1.0, zeros, stretched), score, generations=0, copies=4, generator=generator)
    assert still is zeros
