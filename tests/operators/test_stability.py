from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop

from separatrix.operators import (
    OperatorUsageError,
    ParameterError,
    UnsupportedOptimizerError,
    effective_preconditioner,
    group_threshold,
    hessian_of,
    precondition,
    stability_ratio,
    stability_threshold,
    supported_optimizers,
    top_eigenpairs,
)

HESSIAN = torch.tensor([[3.0, 1.0, 0.2], [1.0, 2.0, -0.5], [0.2, -0.5, 0.7]], dtype=torch.float64)
SECOND_MOMENT = torch.tensor([4.0, 0.3, 1.5], dtype=torch.float64)
FROZEN = 1 - 1e-10
LATE = 1e12


def quadratic(x: Tensor) -> Tensor:
    return x @ HESSIAN @ x / 2


def frozen_state(optimizer: Optimizer, x: Tensor) -> None:
    """Second moments that later gradients, 1e-6 or less, do not move, at a step where no bias is left."""
    step = torch.tensor(LATE, dtype=torch.float64)
    if isinstance(optimizer, Adam):
        optimizer.state[x] = {"step": step, "exp_avg": torch.zeros(3).double(), "exp_avg_sq": SECOND_MOMENT.clone()}
        if optimizer.param_groups[0]["amsgrad"]:
            optimizer.state[x]["exp_avg_sq"] /= 4
            optimizer.state[x]["max_exp_avg_sq"] = SECOND_MOMENT.clone()
    elif isinstance(optimizer, RMSprop):
        optimizer.state[x] = {"step": step, "square_avg": SECOND_MOMENT.clone()}
        if optimizer.param_groups[0]["momentum"]:
            optimizer.state[x]["momentum_buffer"] = torch.zeros(3).double()
        if optimizer.param_groups[0]["centered"]:
            optimizer.state[x]["grad_avg"] = 0.3 * torch.ones(3).double()
    elif isinstance(optimizer, Adagrad):
        optimizer.state[x] = {"step": torch.tensor(1.0), "sum": SECOND_MOMENT.clone()}


def growth(make_optimizer: Callable[..., Optimizer], options: dict[str, Any], ratio: float) -> float:
    """Size after many steps over the size at the start, at a learning rate that puts the stability ratio at `ratio`."""
    x = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64, requires_grad=True)
    rate, found = 1.0, 0.0
    while abs(found - ratio) > 1e-9:
        optimizer = make_optimizer([x], lr=rate, **options)
        frozen_state(optimizer, x)
        operator = precondition(hessian_of(lambda: quadratic(x), [x]), optimizer)
        sharpness = float(torch.linalg.eigvalsh(operator @ torch.eye(3).double())[-1])
        found = stability_ratio(optimizer, sharpness)
        rate *= (ratio / found) ** 0.9
    with torch.no_grad():
        x.mul_(1e-12)
    sizes = []
    for _ in range(2000):
        optimizer.zero_grad()
        quadratic(x).backward()
        optimizer.step()
        sizes.append(float(x.detach().norm()))
        if not 1e-15 < sizes[-1] < 1e-8:
            break
    return max(sizes[-5:]) / max(sizes[:10])


CASES = [
    (SGD, {}),
    (SGD, {"weight_decay": 0.5}),
    (SGD, {"momentum": 0.5}),
    (SGD, {"momentum": 0.9, "weight_decay": 0.5}),
    (SGD, {"momentum": 0.5, "dampening": 0.5}),
    (SGD, {"momentum": 0.8, "dampening": 0.3}),
    (SGD, {"dampening": 0.3}),
    (SGD, {"momentum": 0.9, "nesterov": True}),
    (SGD, {"momentum": 0.3, "nesterov": True, "weight_decay": 0.4}),
    (Adam, {"betas": (0.9, FROZEN)}),
    (Adam, {"betas": (0.0, FROZEN), "eps": 0.4}),
    (Adam, {"betas": (0.6, FROZEN), "weight_decay": 0.3}),
    (Adam, {"betas": (0.6, FROZEN), "amsgrad": True}),
    (AdamW, {"betas": (0.9, FROZEN), "weight_decay": 0.01}),
    (AdamW, {"betas": (0.5, FROZEN), "weight_decay": 0.2}),
    (AdamW, {"betas": (0.0, FROZEN), "weight_decay": 0.7}),
    (RMSprop, {"alpha": FROZEN}),
    (RMSprop, {"alpha": FROZEN, "momentum": 0.8, "eps": 0.1, "weight_decay": 0.2}),
    (RMSprop, {"alpha": FROZEN, "centered": True}),
    (Adagrad, {"lr_decay": 0.0, "weight_decay": 0.1}),
]


@pytest.mark.parametrize(("kind", "options"), CASES, ids=[f"{kind.__name__} {options}" for kind, options in CASES])
def test_the_optimizer_itself_converges_below_and_diverges_above(kind: type[Optimizer], options: dict) -> None:
    assert growth(kind, options, 0.97) < 0.1
    assert growth(kind, options, 1.03) > 10


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_closed_forms(momentum: float) -> None:
    sgd = {"lr": 0.1, "weight_decay": 0.0, "momentum": momentum, "dampening": 0.0, "nesterov": False}
    assert group_threshold(SGD, sgd).value == pytest.approx(2 * (1 + momentum))
    assert group_threshold("SGD", {**sgd, "nesterov": True}).value == pytest.approx(
        2 * (1 + momentum) / (1 + 2 * momentum)
    )
    assert group_threshold(SGD, {**sgd, "dampening": momentum}).value == pytest.approx(
        2 * (1 + momentum) / (1 - momentum)
    )
    adam = {"lr": 0.1, "weight_decay": 0.2, "betas": (momentum, 0.999)}
    found = group_threshold("Adam", adam)
    assert found.value == pytest.approx(2 * (1 + momentum) / (1 - momentum))
    assert (found.matrix, found.weight_decay) == ("preconditioned hessian", 0.2)
    decoupled = group_threshold(AdamW, adam)
    assert decoupled.value == pytest.approx((2 - 0.02) * (1 + momentum) / (1 - momentum))
    assert decoupled.weight_decay == 0


@pytest.mark.parametrize("kind", [Adam, AdamW, RMSprop, Adagrad])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_preconditioner_is_what_the_optimizer_divided_by(kind: type[Optimizer], steps: int) -> None:
    x = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64, requires_grad=True)
    options = {"eps": 0.05, "weight_decay": 0.0, **({"lr_decay": 0.3} if kind is Adagrad else {})}
    optimizer = kind([x], lr=0.1, **options)
    for _ in range(steps):
        before = x.detach().clone()
        optimizer.zero_grad()
        quadratic(x).backward()
        optimizer.step()
    scales, decays = effective_preconditioner(optimizer, [x])
    step = optimizer.state[x]["exp_avg"] if isinstance(optimizer, Adam) else x.grad
    assert torch.allclose(before - x.detach(), 0.1 * step / scales, rtol=1e-10)
    assert not decays.any()


def test_groups_with_several_learning_rates_are_scaled_to_the_largest() -> None:
    a = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    curvature = torch.tensor([[2.0, 0.8], [0.8, 5.0]], dtype=torch.float64)

    def loss() -> Tensor:
        x = torch.cat([a, b])
        return x @ curvature @ x / 2

    for factor, stable in ((0.97, True), (1.03, False)):
        optimizer = SGD([{"params": [a], "lr": 1.0}, {"params": [b], "lr": 0.1}], lr=1.0)
        operator = precondition(hessian_of(loss, [a, b]), optimizer)
        edge = stability_ratio(optimizer, float(top_eigenpairs(operator, 1, tolerance=1e-10).values[0]))
        for group in optimizer.param_groups:
            group["lr"] *= factor / edge
        with torch.no_grad():
            a.fill_(1e-9), b.fill_(1e-9)
        for _ in range(500):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        assert (float(a.detach().abs() + b.detach().abs()) < 1e-10) == stable


def test_groups_that_differ_little_in_decoupled_decay_have_the_least_threshold() -> None:
    x, y = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    for first, second in (({"lr": 0.1}, {"lr": 0.01}), ({"weight_decay": 0.1}, {"weight_decay": 0.0})):
        optimizer = AdamW([{"params": [x], **first}, {"params": [y], **second}], lr=1e-3, weight_decay=0.05)
        least = min(group_threshold(AdamW, group).value for group in optimizer.param_groups)
        threshold = stability_threshold(optimizer)
        assert (threshold.value, threshold.learning_rate) == (least, max(g["lr"] for g in optimizer.param_groups))
    far = AdamW([{"params": [x], "lr": 1.0}, {"params": [y], "lr": 0.01}], weight_decay=0.1)
    with pytest.raises(OperatorUsageError, match="in learning rate times decoupled weight decay"):
        stability_threshold(far)


def test_subclasses_count_only_while_they_keep_the_step() -> None:
    class Named(Adam):
        pass

    class Changed(Adam):
        def step(self, closure=None):
            return None

    options = {"lr": 0.1, "weight_decay": 0.0, "betas": (0.9, 0.99)}
    x = torch.ones(2, requires_grad=True)
    Named([x]), Changed([x])
    assert group_threshold(Named, options).value == pytest.approx(38)
    for unknown in (Changed, NAdam, "Lion", torch.optim.LBFGS):
        with pytest.raises(UnsupportedOptimizerError, match="supported are SGD, Adam, AdamW, RMSprop, Adagrad"):
            group_threshold(unknown, options)
    assert supported_optimizers() == ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad")


def test_what_has_no_threshold() -> None:
    x, y = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    with pytest.raises(OperatorUsageError, match="maximizes"):
        stability_threshold(SGD([x], maximize=True))
    with pytest.raises(OperatorUsageError, match="must be in"):
        stability_threshold(SGD([x], momentum=1.0))
    with pytest.raises(OperatorUsageError, match="dampening 1 has no stability threshold"):
        stability_threshold(SGD([x], momentum=0.5, dampening=1.0))
    with pytest.raises(OperatorUsageError, match="diverges by itself"):
        stability_threshold(AdamW([x], lr=1.0, weight_decay=2.0))
    with pytest.raises(OperatorUsageError, match="differ in momentum"):
        stability_threshold(SGD([{"params": [x]}, {"params": [y], "momentum": 0.9}]))
    with pytest.raises(OperatorUsageError, match="momentum, nesterov of SGD are missing"):
        group_threshold(SGD, {"lr": 0.1, "weight_decay": 0.0, "dampening": 0.0})
    with pytest.raises(ParameterError, match="never stepped by Adam"):
        effective_preconditioner(Adam([x]), [x])
    with pytest.raises(ParameterError, match="not in the optimizer"):
        effective_preconditioner(SGD([x]), [x, y])
    with pytest.raises(ParameterError, match=r"learning rate 0.0"):
        effective_preconditioner(SGD([x], lr=0.0), [x])
    adam = Adam([x], eps=0.0)
    x.grad = torch.tensor([1.0, 0.0])
    adam.step()
    with pytest.raises(ParameterError, match="preconditioner of 0"):
        effective_preconditioner(adam, [x])
