"""Kernel descent against brute force: explicit Jacobians, an ODE solver, trainings by torch, and recorded ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

import separatrix
from separatrix.theory import TheoryError, compare
from separatrix.theory.tangent_kernel import (
    THEORY,
    TangentProblem,
    from_model,
    linearised_changes,
    mode_response,
    outputs_at,
)


def _points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _linear(outputs: int = 2) -> nn.Linear:
    """A model that is its own expansion, so that the theory must be exact."""
    model = nn.Linear(5, outputs, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(_points(outputs, 5, seed=3))
        model.bias.copy_(_points(outputs, seed=4))
    return model


def _trained(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, tests: torch.Tensor, loss: nn.Module, momentum: float
) -> list[torch.Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=momentum)
    seen = []
    for _ in range(30):
        outputs = model(x)
        seen.append(torch.cat([outputs, model(tests)]).detach())
        optimizer.zero_grad()
        loss(outputs, y).backward()
        optimizer.step()
    return seen


@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.CrossEntropyLoss(), nn.HuberLoss()])
def test_a_linear_model_is_foretold_exactly(loss: nn.Module, momentum: float) -> None:
    model, x, tests = _linear(), _points(8, 5), _points(4, 5, seed=1)
    classify = isinstance(loss, nn.CrossEntropyLoss)
    y, test_y = (_points(n, seed=n).sign().clamp_min(0).long() if classify else _points(n, 2, seed=n) for n in (8, 4))
    problem = from_model(model, x, y, tests, test_y, 0.3, momentum=momentum, loss=loss)
    assert (problem.curvature is not None) == isinstance(loss, nn.MSELoss)
    outputs, test_outputs = outputs_at(problem, range(30))
    seen = _trained(model, x, y, tests, loss, momentum)
    torch.testing.assert_close(torch.cat([outputs, test_outputs], 1), torch.stack(seen), rtol=1e-9, atol=1e-11)


def test_the_flow_is_the_limit_of_small_rates() -> None:
    root = _points(7, 7)
    kernel = root @ root.T / 7
    residual = _points(7, seed=2)
    time = 3.0
    flow = solve_ivp(
        lambda t, f: -kernel.numpy() @ (f + residual.numpy()), (0, time), np.zeros(7), rtol=1e-10, atol=1e-12
    )
    errors = []
    for steps in (2000, 4000):
        changes = linearised_changes(kernel, residual, torch.tensor(time / steps, dtype=torch.float64), [steps])
        errors.append(float(np.abs(changes[0].numpy() - flow.y[:, -1]).max()))
    assert errors[0] < 3e-3 and errors[0] / errors[1] == pytest.approx(2.0, rel=0.01)


def test_momentum_obeys_the_heavy_ball_recursion_and_has_its_edge() -> None:
    momentum = 0.8
    speed = torch.tensor([0.0, 1e-3, 0.5, 2 * (1 + momentum) - 0.01, 2 * (1 + momentum) + 0.01], dtype=torch.float64)
    left, gain = mode_response(speed, range(400), momentum)
    torch.testing.assert_close(
        left[2:], (1 + momentum - speed) * left[1:-1] - momentum * left[:-2], rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(1.0 - speed * gain, left, rtol=1e-9, atol=1e-10)
    assert left[-1, 3].abs() < 0.2 and left[-1, 4].abs() > 5.0
    torch.testing.assert_close(gain[:, 0], _free(400, momentum))
    plain, _ = mode_response(speed, [7])
    torch.testing.assert_close(plain[0], (1 - speed) ** 7)


def _free(steps: int, momentum: float) -> torch.Tensor:
    """Sum of the momenta of a constant push of 1."""
    t = torch.arange(steps, dtype=torch.float64)
    return t / (1 - momentum) - momentum * (1 - momentum**t) / (1 - momentum) ** 2


def test_the_kernel_of_a_model_is_that_of_its_jacobian() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, tests = _points(3, 3), _points(2, 3, seed=1)
    problem = from_model(model, x, _points(3, 2), tests, _points(2, 2), 0.1)

    def rows(inputs: torch.Tensor) -> torch.Tensor:
        flat = model(inputs).flatten()
        return torch.stack(
            [
                torch.cat(
                    [g.flatten() for g in torch.autograd.grad(entry, list(model.parameters()), retain_graph=True)]
                )
                for entry in flat
            ]
        )

    torch.testing.assert_close(problem.kernel, rows(x) @ rows(x).T)
    torch.testing.assert_close(problem.test_kernel, rows(tests) @ rows(x).T)


@pytest.mark.parametrize("kind", ["mse", "cross-entropy"])
def test_a_recorded_training_of_a_wide_net_follows_its_prediction(kind: str, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 2048), nn.Tanh(), nn.Linear(2048, 3)).double()
    x, tests = _points(12, 6), _points(10, 6, seed=1)
    classes, test_classes = x[:, :3].argmax(1), tests[:, :3].argmax(1)
    loss = nn.functional.mse_loss if kind == "mse" else nn.functional.cross_entropy
    y, test_y = ((nn.functional.one_hot(c, 3).double() if kind == "mse" else c) for c in (classes, test_classes))
    problem = from_model(model, x, y, tests, test_y, 0.02, momentum=0.5, loss=loss)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.5)
    with separatrix.record(model, optimizer, run=tmp_path / "run", probes="updates"):
        for _ in range(40):
            model.train()
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
            model.eval()
            with torch.no_grad():
                loss(model(tests), test_y)
    residuals = compare(separatrix.open(tmp_path / "run"), THEORY, problem=problem)
    assert set(residuals) == {"loss", "eval_loss"}
    for residual in residuals.values():
        assert residual.share[0] < (1e-6 if residual.series == "loss" else 1e-2)
        assert residual.share.max() < 0.05


def test_targets_of_another_shape_are_refused() -> None:
    with pytest.raises(TheoryError, match="give them the same shape"):
        from_model(_linear(), _points(3, 5), _points(3), _points(2, 5), _points(2), 0.1)


def test_a_problem_of_a_model_is_not_simulated() -> None:
    problem = from_model(_linear(), _points(3, 5), _points(3, 2), _points(2, 5), _points(2, 2), 0.1)
    assert isinstance(problem, TangentProblem) and math.isfinite(THEORY.predicted(problem)["loss"][-1])
    with pytest.raises(TheoryError, match="record its training"):
        THEORY.simulated(problem)
