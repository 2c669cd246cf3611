"""Builds models whose random draws all have the same magnitude, which shows the law of initial values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from separatrix.steer.parametrization.building import kept_generators

_aten = torch.ops.aten
_NORMAL = {_aten.normal_.default, _aten.randn.default, _aten.randn_like.default}
_UNIFORM = {_aten.uniform_.default, _aten.rand.default, _aten.rand_like.default}
_IN_PLACE = {_aten.normal_.default, _aten.uniform_.default}


class QuietDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it lasts, normal and uniform draws lie one standard deviation above or below their mean."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The result of an operation, made quiet if it is a draw."""
        given = kwargs or {}
        drawn = func(*args, **given)
        if func in _NORMAL:
            mean, deviation = _two(args, given, ("mean", 0.0), ("std", 1.0)) if func in _IN_PLACE else (0.0, 1.0)
        elif func in _UNIFORM:
            low, high = _two(args, given, ("from", 0.0), ("to", 1.0)) if func in _IN_PLACE else (0.0, 1.0)
            mean, deviation = (low + high) / 2, (high - low) / math.sqrt(12)
        else:
            return drawn
        return drawn.copy_(torch.where(drawn >= mean, mean + deviation, mean - deviation))


def quiet(build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` gives on the CPU with quiet draws; global generators are left as they were."""
    with kept_generators(), QuietDraws():  # type: ignore[no-untyped-call]
        return build()


def _two(args: Any, given: Any, *options: tuple[str, float]) -> list[float]:
    places = enumerate(options, start=1)
    return [float(args[i] if len(args) > i else given.get(name, default)) for i, (name, default) in places]
