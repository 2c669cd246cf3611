"""Quadratic features: the closed pair of statistics against nets trained by torch, quadrature, and their limits."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from separatrix.operators import tangent_kernel
from separatrix.tasks import SingleIndex
from separatrix.theory.lazy_rich_grokking import (
    THEORY,
    QuadraticNet,
    QuadraticProblem,
    Statistics,
    initial_kernel,
    outputs,
    risk,
    stable_rate,
    statistics,
    step,
    wide,
)


def _problem(width: int = 6, task: SingleIndex | None = None, **changes: float) -> QuadraticProblem:
    task = task or SingleIndex(dimension=4, coefficients=(0.2, 0.3, 0.6, 0.5), noise=0.1, dtype=torch.float64)
    batch = task.sample(9, 1)
    weights = torch.randn(width, task.dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    values = {"scale": 1.5, "bend": 0.4, "pace": 0.7} | changes
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
    return QuadraticProblem(task, *batch, statistics(weights), weights=weights, **tensors)


def _trained(problem: QuadraticProblem, steps: int) -> QuadraticNet:
    assert problem.weights is not None
    net = QuadraticNet(problem.weights, float(problem.scale), float(problem.bend))
    rate = float(problem.pace) * len(problem.weights) / net.scale**2
    for _ in range(steps):
        net.zero_grad()
        (0.5 * (net(problem.inputs)[:, 0] - problem.targets).square().mean()).backward()
        with torch.no_grad():
            net.hidden.weight -= rate * net.hidden.weight.grad
    return net


def test_two_statistics_stand_for_all_weights() -> None:
    problem = _problem()
    now = problem.start
    for _ in range(50):
        now = step(problem, now)
    weights = _trained(problem, 50).hidden.weight.detach()
    assert float((weights - problem.weights).abs().max()) > 0.1
    torch.testing.assert_close(now.mean, statistics(weights).mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(now.moment, statistics(weights).moment, rtol=1e-10, atol=1e-12)


def test_the_risk_is_the_integral_over_normal_inputs() -> None:
    """A product rule with nodes in both dimensions, exact for the polynomials of degree 6 that squared errors are."""
    problem = _problem(task=SingleIndex(dimension=2, coefficients=(0.2, 0.3, 0.6, 0.5), noise=0.3, dtype=torch.float64))
    now = step(problem, step(problem, problem.start))
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    grid = torch.cartesian_prod(torch.tensor(nodes), torch.tensor(nodes))
    measure = torch.cartesian_prod(torch.tensor(weights), torch.tensor(weights)).prod(1) / (2 * math.pi)
    errors = (outputs(problem, now, grid) - problem.task.response(grid)).square() + problem.task.noise**2
    assert float(risk(problem, now)) == pytest.approx(0.5 * float(measure @ errors), rel=1e-10)


def test_the_kernel_is_that_of_the_net() -> None:
    problem = _problem()
    found = tangent_kernel(_trained(problem, 0), problem.inputs)
    assert isinstance(found, torch.Tensor) and problem.weights is not None
    scaled = found * len(problem.weights) / float(problem.scale) ** 2
    torch.testing.assert_close(initial_kernel(problem, problem.inputs), scaled)
    limit = dataclasses.replace(problem, start=wide(4))
    cosines = problem.inputs @ problem.inputs.T / 4
    torch.testing.assert_close(initial_kernel(limit, problem.inputs), cosines + 0.16 * cosines**2)


def test_wide_nets_approach_infinite_width_as_the_root_of_the_width() -> None:
    distances = []
    for width in (400, 40_000):
        problem = _problem(width=width)
        pair = [problem, dataclasses.replace(problem, start=wide(4))]
        ends: list[Statistics] = [one.start for one in pair]
        for _ in range(20):
            ends = [step(one, now) for one, now in zip(pair, ends, strict=True)]
        distances.append(float((ends[0].moment - ends[1].moment).norm()))
    assert distances[1] == pytest.approx(distances[0] / 10, rel=0.6)


def test_copies_are_trained_as_each_alone() -> None:
    one, other = _problem(), _problem(scale=0.5, bend=0.9)
    fields = [field.name for field in dataclasses.fields(QuadraticProblem) if field.name not in ("task", "start")]
    both = QuadraticProblem(
        one.task,
        start=Statistics(*(torch.stack([getattr(p.start, name) for p in (one, other)]) for name in ("mean", "moment"))),
        **{name: torch.stack([getattr(one, name), getattr(other, name)]) for name in fields},
    )
    now = step(both, step(both, both.start))
    for index, problem in enumerate((one, other)):
        alone = step(problem, step(problem, problem.start))
        torch.testing.assert_close(now.moment[index], alone.moment)
        torch.testing.assert_close(risk(both, now)[index], risk(problem, alone))
        torch.testing.assert_close(stable_rate(both)[index], stable_rate(problem))


def test_a_larger_scale_delays_the_test_loss() -> None:
    delays = []
    for scale in (0.3, 1.0, 3.0):
        problem = THEORY.problem(
            THEORY.complete({"scale": scale, "bend": 0.5, "rate_share": 0.4, "examples_per_dimension": 6.0}), 0
        )
        seen = THEORY.predicted(problem, range(0, 600, 2))
        halved = [int(np.flatnonzero(seen[name] <= 0.5 * seen[name][0])[0]) for name in ("loss", "eval_loss")]
        delays.append(halved[1] / halved[0])
    assert delays[0] < delays[1] < delays[2]
