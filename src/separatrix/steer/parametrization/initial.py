"""Initial values: the user's own, rescaled in place from the law they follow to the one that a rule asks for."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

_POWERS = (0.5, 0.0, 1.0)
_NEAR = 0.02
_ERRORS = 4.0


@dataclasses.dataclass(frozen=True)
class Size:
    """The root mean square of a tensor's entries, and the standard error of its logarithm as one of random draws."""

    value: float
    error: float


def size_of(tensor: torch.Tensor) -> Size:
    """The size of a tensor, in float64."""
    value = float(tensor.detach().double().square().mean().sqrt()) if tensor.numel() else 0.0
    return Size(value, math.sqrt(0.5 / max(tensor.numel(), 1)))


def factor_to(
    target: float, model: Size, base: Size, quiet: tuple[Size, Size] | None, ratios: Sequence[tuple[float, float]]
) -> float:
    """What to multiply the model's tensor by, so that its entries are `target` times those of the base model's.

    Constructors draw with deviations that are powers 0, -1/2 or -1 of sizes (fan-in, layers). `ratios` are those of the
    sizes that may matter, in the model and in delta over the base; `quiet` are the tensor's sizes in builds of base and
    delta that draw without noise. If a product of powers explains the latter and is within sampling error of the
    model's values, those are taken to follow it, which leaves no noise in the factor; otherwise what was measured is
    corrected. Zeros stay zeros.
    """
    if model.value == 0.0 or base.value == 0.0:
        return 1.0
    measured = math.log(model.value / base.value)
    allowed = _NEAR + _ERRORS * math.hypot(model.error, base.error)
    laws = [
        -sum(power * math.log(ours) for power, (ours, _) in zip(powers, ratios, strict=True))
        for powers in itertools.product(_POWERS, repeat=len(ratios))
        if _explains(powers, quiet, ratios)
    ]
    nearest = min(laws, key=lambda law: abs(law - measured), default=math.inf)
    return target / math.exp(nearest if abs(nearest - measured) <= allowed else measured)


def _explains(powers: Sequence[float], quiet: tuple[Size, Size] | None, ratios: Sequence[tuple[float, float]]) -> bool:
    """Whether delta's values over the base's are that product of powers; any is without them."""
    if quiet is None or 0.0 in (quiet[0].value, quiet[1].value):
        return True
    predicted = -sum(power * math.log(theirs) for power, (_, theirs) in zip(powers, ratios, strict=True))
    return abs(predicted - math.log(quiet[1].value / quiet[0].value)) <= _NEAR


@torch.no_grad()
def rescale(model: nn.Module, factors: Mapping[str, float]) -> None:
    """Multiply the named parameters in place."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, factor in factors.items():
        if factor != 1.0:
            parameters[name].mul_(factor)
