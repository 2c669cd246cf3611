"""Multipliers that no tensor can absorb, as forward hooks that hold a constant."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import nn

from separatrix.steer.errors import ParametrizationError


@dataclasses.dataclass(frozen=True)
class InputMultiplier:
    """A forward pre-hook that multiplies a module's first input by a constant."""

    factor: float

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """The arguments with the first of them multiplied."""
        del module
        if args:
            return (args[0] * self.factor, *args[1:]), kwargs
        first = next(iter(kwargs))
        return args, {**kwargs, first: kwargs[first] * self.factor}


@dataclasses.dataclass(frozen=True)
class OutputMultiplier:
    """A forward hook that multiplies a module's output, or the first of several, by a constant.

    Several may be in a tuple, named or not, a list, a mapping or a dataclass.
    """

    factor: float

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """The output multiplied.

        Raises:
            ParametrizationError: its first part is no tensor.
        """
        del args
        if isinstance(output, torch.Tensor):
            return output * self.factor
        if isinstance(output, tuple | list) and output and isinstance(output[0], torch.Tensor):
            parts = (output[0] * self.factor, *output[1:])
            return output._make(parts) if hasattr(output, "_make") else type(output)(parts)
        if isinstance(output, MutableMapping):
            first = next(iter(output), None)
            if first is not None and isinstance(output[first], torch.Tensor):
                copied = copy.copy(output)
                copied[first] = output[first] * self.factor
                return copied
        elif dataclasses.is_dataclass(output) and not isinstance(output, type):
            field = next(iter(dataclasses.fields(output)))
            if isinstance(value := getattr(output, field.name), torch.Tensor):
                return dataclasses.replace(output, **{field.name: value * self.factor})
        raise ParametrizationError(
            f"{type(module).__name__} returns a {type(output).__name__} whose first part is no tensor: "
            "put the multiplier on a module inside of it that returns one"
        )


def hold_input(module: nn.Module, factor: float) -> None:
    """Multiply the module's first input from now on, once: a second call replaces the first."""
    _forget(module._forward_pre_hooks, InputMultiplier)
    if factor != 1.0:
        module.register_forward_pre_hook(InputMultiplier(factor), with_kwargs=True)


def hold_output(module: nn.Module, factor: float) -> None:
    """Multiply the module's output from now on, once: a second call replaces the first."""
    _forget(module._forward_hooks, OutputMultiplier)
    if factor != 1.0:
        module.register_forward_hook(OutputMultiplier(factor))


def _forget(hooks: dict[int, Any], kind: type) -> None:
    for key in [key for key, hook in hooks.items() if isinstance(hook, kind)]:
        del hooks[key]
