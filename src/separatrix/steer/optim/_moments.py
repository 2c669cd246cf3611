"""What optimizers after Adam share: checked hyperparameters and gradients, and the two running moments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from separatrix.steer.optim.errors import OptimizerError


def check_group(group: Mapping[str, Any], positive: Sequence[str] = ()) -> None:
    """Refuse rates, decays and betas that are out of range, and any option in `positive` that is not above 0.

    Raises:
        OptimizerError: one is.
    """
    for name in ("lr", "weight_decay", "eps"):
        if name in group and not 0.0 <= float(group[name]) < math.inf:
            raise OptimizerError(f"{name}={group[name]} is not a finite number from 0 on: give one")
    for beta in group["betas"]:
        if not 0.0 <= float(beta) < 1.0:
            raise OptimizerError(f"betas={tuple(group['betas'])}: give two numbers in [0, 1)")
    for name in positive:
        if not 0.0 < float(group[name]) < math.inf:
            raise OptimizerError(f"{name}={group[name]} is not a finite number above 0: give one")


def gradients_of(parameters: Sequence[Tensor], owner: str) -> list[Tensor]:
    """The gradients of these parameters, none of which is None.

    Raises:
        OptimizerError: one is sparse or complex.
    """
    gradients = []
    for parameter in parameters:
        gradient = parameter.grad
        assert gradient is not None
        if gradient.layout != torch.strided or gradient.is_complex():
            kind = "complex" if gradient.is_complex() else "sparse"
            raise OptimizerError(
                f"{owner} got a {kind} gradient of shape {tuple(gradient.shape)}: give that parameter to torch.optim"
                f"{'.SparseAdam' if kind == 'sparse' else '.Adam'} instead"
            )
        gradients.append(gradient)
    return gradients


def use_foreach(wanted: bool | None, tensors: Sequence[Tensor]) -> bool:
    """Whether to use torch's multi-tensor functions: as told, else where all tensors are on one CUDA device."""
    if wanted is not None:
        return wanted
    return bool(tensors) and all(t.device.type == "cuda" and t.device == tensors[0].device for t in tensors)


def update_moments(
    first: list[Tensor], second: list[Tensor], gradients: list[Tensor], betas: tuple[float, float], foreach: bool
) -> None:
    """Move both running moments towards the gradients and their squares, in place."""
    slow, slower = betas
    if foreach:
        torch._foreach_lerp_(first, gradients, 1.0 - slow)
        torch._foreach_mul_(second, slower)
        torch._foreach_addcmul_(second, gradients, gradients, 1.0 - slower)
        return
    for mean, square, gradient in zip(first, second, gradients, strict=True):
        mean.lerp_(gradient, 1.0 - slow)
        square.mul_(slower).addcmul_(gradient, gradient, value=1.0 - slower)


def decay(parameters: list[Tensor], amount: float, foreach: bool) -> None:
    """Shrink parameters by the share `amount`, in place: decoupled weight decay."""
    if amount == 0.0:
        return
    if foreach:
        torch._foreach_mul_(parameters, 1.0 - amount)
        return
    for parameter in parameters:
        parameter.mul_(1.0 - amount)
