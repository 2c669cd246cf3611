"""Optimizers over stacked parameters: the formulas of `torch.optim`, with hyperparameters of each copy's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from separatrix.tasks.errors import EnsembleError

Hyper: TypeAlias = float | Sequence[float] | Tensor
"""One number for all copies, or one for each."""

State: TypeAlias = dict[str, Tensor]
Update: TypeAlias = Callable[[Tensor, int, Hyper | None], None]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """What all optimizers share; each hyperparameter is one number, or one for each copy.

    `clip_norm` scales the gradient of each copy as `torch.nn.utils.clip_grad_norm_` does.
    """

    learning_rate: Hyper
    weight_decay: Hyper = 0.0
    clip_norm: Hyper | None = None

    def start(self, parameters: Tensor) -> State:
        """The state before the first step, for parameters (copies, size)."""
        raise NotImplementedError

    def bind(self, parameters: Tensor, state: State) -> Update:
        """A function `update(gradient, step, factor)` that changes parameters and state in place.

        `gradient` has shape (copies, size) and may be overwritten; `step` counts from 1; `factor` multiplies the
        learning rates, None by 1.

        Raises:
            EnsembleError: a hyperparameter is negative, not finite or not one for each copy.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class SGD(Optimizer):
    """`torch.optim.SGD`, with momentum, dampening and Nesterov's variant."""

    momentum: Hyper = 0.0
    dampening: Hyper = 0.0
    nesterov: bool = False

    def start(self, parameters: Tensor) -> State:
        """The momentum buffer, unless no copy has momentum."""
        still = not torch.is_tensor(self.momentum) and self.momentum == 0.0
        return {} if still else {"momentum": torch.zeros_like(parameters)}

    def bind(self, parameters: Tensor, state: State) -> Update:
        """See Optimizer.bind."""
        rate, decay, clip = _common(self, parameters)
        momentum = column(self.momentum, parameters, "momentum")
        dampening = column(self.dampening, parameters, "dampening")
        fresh = 1.0 - dampening * (momentum != 0)
        if self.nesterov and bool(torch.any((fresh != 1.0) | (torch.as_tensor(momentum) == 0.0))):
            raise EnsembleError("nesterov is on with dampening or without momentum: set momentum > 0 and dampening = 0")
        velocity = state.get("momentum")

        def update(gradient: Tensor, step: int, factor: Hyper | None) -> None:
            clip(gradient)
            decay(gradient, parameters)
            if velocity is not None:
                if step == 1:
                    velocity.copy_(gradient)
                else:
                    velocity.mul_(momentum).add_(gradient * fresh)
                gradient = gradient.add_(velocity * momentum) if self.nesterov else velocity
            parameters.sub_(gradient * _scaled(rate, factor, parameters))

        return update


@dataclasses.dataclass(frozen=True)
class Adam(Optimizer):
    """`torch.optim.Adam`; with `decoupled` its weight decay is that of `torch.optim.AdamW`."""

    learning_rate: Hyper = 1e-3
    beta1: Hyper = 0.9
    beta2: Hyper = 0.999
    epsilon: Hyper = 1e-8
    decoupled: bool = False

    def start(self, parameters: Tensor) -> State:
        """Both moments."""
        return {"first": torch.zeros_like(parameters), "second": torch.zeros_like(parameters)}

    def bind(self, parameters: Tensor, state: State) -> Update:
        """See Optimizer.bind."""
        rate, decay, clip = _common(self, parameters)
        beta1, beta2 = column(self.beta1, parameters, "beta1"), column(self.beta2, parameters, "beta2")
        for name, beta in (("beta1", beta1), ("beta2", beta2)):
            if not bool((beta < 1.0).all()):
                raise EnsembleError(f"{name} is 1 or more in some copy: give numbers in [0, 1)")
        epsilon = column(self.epsilon, parameters, "epsilon")
        weight_decay = column(self.weight_decay, parameters, "weight_decay")
        first, second = state["first"], state["second"]

        def update(gradient: Tensor, step: int, factor: Hyper | None) -> None:
            clip(gradient)
            now = _scaled(rate, factor, parameters)
            if self.decoupled:
                parameters.mul_(1.0 - now * weight_decay)
            else:
                decay(gradient, parameters)
            first.lerp_(gradient, 1.0 - beta1)
            second.lerp_(gradient.square_(), 1.0 - beta2)
            # m / (sqrt(v / c2) + e) * r / c1, the corrections moved to numbers that are one a copy.
            root = (1.0 - beta2**step).sqrt()
            denominator = torch.sqrt(second, out=gradient).add_(epsilon * root)
            parameters.addcdiv_(first * (-now * root / (1.0 - beta1**step)), denominator)

        return update


def adamw(learning_rate: Hyper = 1e-3, weight_decay: Hyper = 1e-2, **others: Hyper) -> Adam:
    """Adam with decoupled weight decay and torch's defaults."""
    return Adam(learning_rate, weight_decay, decoupled=True, **others)


def column(value: Hyper, parameters: Tensor, name: str) -> Tensor:
    """A hyperparameter as (copies, 1) or (1, 1), of the parameters' dtype.

    Raises:
        EnsembleError: it is negative, not finite, or not one number for each copy.
    """
    numbers = torch.as_tensor(value, dtype=parameters.dtype, device=parameters.device).reshape(-1, 1)
    if len(numbers) not in (1, len(parameters)):
        raise EnsembleError(
            f"{name} has {len(numbers)} values for {len(parameters)} copies: give one number or {len(parameters)}"
        )
    if not bool(((numbers >= 0) & numbers.isfinite()).all()):
        raise EnsembleError(f"{name} is negative or not finite in some copy: give finite numbers from 0 on")
    return numbers


def _scaled(rate: Tensor, factor: Hyper | None, parameters: Tensor) -> Tensor:
    return rate if factor is None else rate * column(factor, parameters, "the schedule")


def _common(
    optimizer: Optimizer, parameters: Tensor
) -> tuple[Tensor, Callable[[Tensor, Tensor], None], Callable[[Tensor], None]]:
    """The learning rates, and functions that add coupled weight decay to a gradient and clip it in place."""
    rate = column(optimizer.learning_rate, parameters, "learning_rate")
    weight_decay = column(optimizer.weight_decay, parameters, "weight_decay")
    limit = None if optimizer.clip_norm is None else column(optimizer.clip_norm, parameters, "clip_norm")
    decays = bool(weight_decay.any())

    def decay(gradient: Tensor, values: Tensor) -> None:
        if decays:
            gradient.addcmul_(values, weight_decay)

    def clip(gradient: Tensor) -> None:
        if limit is not None:
            norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient.mul_((limit / (norms + 1e-6)).clamp_(max=1.0))

    return rate, decay, clip
