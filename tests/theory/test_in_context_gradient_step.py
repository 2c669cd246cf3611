"""The moments behind the learnt step against prompts drawn, and the trainings against the literal attention layer."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from separatrix.tasks import InContextRegression
from separatrix.theory import TheoryError, find_theory
from separatrix.theory._prompt_training import descended, objective
from separatrix.theory.in_context_gradient_step import gradient_step, moments, response_moments

BASE = InContextRegression(dimension=3, length=4, decay=0.5, dtype=torch.float64)
TASKS: dict[str, dict[str, Any]] = {
    "linear": {"noise": 0.5, "query_scale": 1.5, "task_decay": 0.7, "task_scale": 0.8},
    "whitened": {"noise": 0.5, "task_decay": -0.5, "covariate_scale": 1.3},
    "exponential": {"noise": 0.5, "covariance": "exponential", "task_decay": 0.7, "query_scale": 0.5},
    "sign": {"noise": 0.5, "response": "sign", "task_decay": -0.5},
    "sine": {"noise": 0.3, "response": "sine", "task_decay": -0.5, "task_scale": 0.6},
    "relu_network": {"noise": 0.3, "response": "relu_network", "task_decay": -0.5, "units": 3},
}
N = 150_000


@pytest.mark.parametrize("name", TASKS)
def test_moments_are_those_of_prompts_drawn(name: str) -> None:
    task = dataclasses.replace(BASE, **TASKS[name])
    tokens, targets = task.sample(N, 0)
    gradients = (tokens[:, :-1, -1:] * tokens[:, :-1, :-1]).sum(1) / task.length
    query, seen = tokens[:, -1, :-1], moments(task)
    draws = {
        "curvature": (gradients[:, :, None] * query[:, None]).square().flatten(1),
        "cross": gradients * query * targets[:, None],
        "power": targets.square()[:, None],
    }
    for part, values in draws.items():
        expected = torch.as_tensor(getattr(seen, part)).flatten()
        error = values.std(0) / N**0.5
        assert ((values.mean(0) - expected).abs() < 5 * error).all(), part
        assert (error < 0.1 * expected).all(), f"{part} is not known well enough"


def test_moments_of_different_entries_do_not_mix() -> None:
    tokens, targets = dataclasses.replace(BASE, noise=0.5).sample(N, 0)
    gradients = (tokens[:, :-1, -1:] * tokens[:, :-1, :-1]).sum(1) / BASE.length
    features = (gradients[:, :, None] * tokens[:, -1, None, :-1]).flatten(1)
    products = (features[:, :, None] * features[:, None])[:, ~torch.eye(9, dtype=torch.bool)]
    assert (products.mean(0).abs() < 5 * products.std(0) / N**0.5).all()
    off = (features * targets[:, None])[:, ~torch.eye(3, dtype=torch.bool).flatten()]
    assert (off.mean(0).abs() < 5 * off.std(0) / N**0.5).all()


@pytest.mark.parametrize(("dimension", "length", "noise"), [(1, 1, 0.0), (5, 20, 0.5), (10, 3, 2.0)])
def test_the_isotropic_step_is_that_of_the_paper(dimension: int, length: int, noise: float) -> None:
    task = dataclasses.replace(BASE, dimension=dimension, length=length, noise=noise, decay=0.0)
    expected = length / (length + dimension + 1 + noise**2)
    np.testing.assert_allclose(moments(task).optimum, expected * np.eye(dimension), rtol=1e-12)
    whitened = dataclasses.replace(task, decay=1.0, task_decay=-1.0)
    np.testing.assert_allclose(moments(whitened).optimum, np.diag(expected * np.arange(1, dimension + 1)), rtol=1e-12)
    assert gradient_step(length, dimension, noise) == expected


def test_few_weights_of_a_sine_are_those_of_a_line() -> None:
    small = response_moments("sine", 1e-8, 6)
    np.testing.assert_allclose(small, response_moments("linear", 1e-8, 6), rtol=1e-6)


def test_nothing_near_the_best_step_is_better() -> None:
    seen = moments(dataclasses.replace(BASE, **TASKS["exponential"]))
    draws = np.random.default_rng(0).standard_normal((200, 3, 3))
    assert (seen.loss(seen.optimum + 1e-2 * draws) > seen.least_loss).all()
    assert float(seen.loss(seen.optimum)) == pytest.approx(seen.least_loss, rel=1e-12)


def test_other_responses_need_whitened_covariates() -> None:
    with pytest.raises(TheoryError, match="give task_decay=-decay"):
        moments(dataclasses.replace(BASE, response="sign"))


def test_what_trains_is_the_attention_layer() -> None:
    """The objective and its gradient are those of E + V E (E' M E) / n, by autograd, for V reading labels."""
    task, step = dataclasses.replace(BASE, noise=0.4), torch.randn(2, 3, 3, dtype=torch.float64)
    seen = objective(task, 2, 30, torch.Generator().manual_seed(3))
    before, after = descended((step,), seen, 0.1, [0, 1])
    generator = torch.Generator().manual_seed(3)
    value = torch.zeros(4, 4, dtype=torch.float64)
    value[-1, -1] = 1.0
    for copy in range(2):
        tokens, targets = task.sample(30, generator)
        match = torch.zeros(4, 4, dtype=torch.float64)
        match[:3, :3] = step[copy]
        match.requires_grad_()
        embedded = tokens.mT
        outputs = embedded + value @ embedded @ (embedded.mT @ match @ embedded) / task.length
        loss = (outputs[:, -1, -1] - targets).square().mean() / 2
        torch.testing.assert_close(seen.losses(step)[copy], loss.detach(), rtol=1e-10, atol=1e-12)
        (gradient,) = torch.autograd.grad(loss, match)
        torch.testing.assert_close((before - after)[copy] / 0.1, gradient[:3, :3], rtol=1e-9, atol=1e-11)


def test_the_smallest_learning_curve_is_gradient_descent_on_the_moments() -> None:
    theory = find_theory("in-context-gradient-step")
    problem = theory.problem(theory.complete({"responses": "sine", "dimension": 2}), 4)
    seen, step = problem.moments, problem.start
    for _ in range(7):
        step = step - problem.rate * (seen.curvature * step - np.diag(seen.cross))
    prediction = theory.predicted(problem, [0, 7])
    np.testing.assert_allclose(prediction["mode_strength"][1], step.diagonal(), rtol=1e-12)
    assert prediction["loss"][1] == pytest.approx(float(seen.loss(step)), rel=1e-12)
