"""Initial values: the user's own, rescaled in place from the law they follow to the one that a rule asks for."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

Ratios = tuple[float, float]
"""A size in the model and in delta, over the base's."""
_POWERS = (0.5, 0.0, 1.0)
_DEPTH_POWERS = (0.0, 0.25, 0.5, 1.0)
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


@dataclasses.dataclass(frozen=True)
class Law:
    """How initial values change from the base to the model: logarithms, of all and of what is due to the depth.

    `sure` says whether no other law that fits as well has another part due to the depth.
    """

    change: float
    by_depth: float = 0.0
    sure: bool = True


def law_of(model: Size, base: Size, quiet: tuple[Size, Size] | None, widths: Sequence[Ratios], depth: Ratios) -> Law:
    """The law that a constructor follows, from the sizes of a tensor that it draws.

    Constructors draw with deviations that are powers 0, -1/2 or -1 of sizes (fan-in), or -1/4 of the number of layers.
    `widths` and `depth` are the ratios of those that may matter, in the model and in delta over the base; `quiet` are
    the tensor's sizes in builds of base and delta that draw without noise. If a product of powers explains the latter
    and is within sampling error of the model's values, those are taken to follow it, which leaves no noise in the law,
    rather without the depth than with it; otherwise it is what was measured.
    """
    measured = math.log(model.value / base.value)
    allowed = _NEAR + _ERRORS * math.hypot(model.error, base.error)
    fitting = []
    for powers in itertools.product(*(_POWERS for _ in widths), _DEPTH_POWERS):
        ours, theirs = (
            [-power * math.log(pair[which]) for power, pair in zip(powers, (*widths, depth), strict=True)]
            for which in (0, 1)
        )
        if _explains(sum(theirs), quiet) and abs(sum(ours) - measured) <= allowed:
            fitting.append(Law(sum(ours), ours[-1]))
    if not fitting:
        return Law(measured)
    chosen = min(fitting, key=lambda law: (law.by_depth != 0.0, abs(law.change - measured)))
    near = abs(chosen.change - measured) + _NEAR
    rivals = (law for law in fitting if law.by_depth != chosen.by_depth)
    return dataclasses.replace(chosen, sure=all(abs(law.change - measured) > near for law in rivals))


def _explains(predicted: float, quiet: tuple[Size, Size] | None) -> bool:
    """Whether delta's values over the base's are what is predicted; anything is without them."""
    if quiet is None or 0.0 in (quiet[0].value, quiet[1].value):
        return True
    return abs(predicted - math.log(quiet[1].value / quiet[0].value)) <= _NEAR


@torch.no_grad()
def rescale(model: nn.Module, factors: Mapping[str, float]) -> None:
    """Multiply the named parameters in place."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, factor in factors.items():
        if factor != 1.0:
            parameters[name].mul_(factor)
