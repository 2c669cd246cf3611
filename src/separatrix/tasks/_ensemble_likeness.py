"""Checks that networks to be stacked differ in the values of parameters and buffers only.

One network stands for all in the batched computation: what another holds elsewhere, such as a random tensor that was
never registered as a buffer, would be lost without a word.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from separatrix.tasks.errors import EnsembleError

_PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device)
_OWN = frozenset(vars(nn.Module())) - {"training"}


def check_alike(modules: Sequence[nn.Module]) -> None:
    """Compare every network with the first one: classes, shapes, modes, and attributes inside plain containers.

    Raises:
        EnsembleError: two networks differ.
    """
    first = dict(_facts(modules[0]))
    for index, module in enumerate(modules[1:], start=1):
        other = dict(_facts(module))
        for key in (*first, *other):
            if key not in first or key not in other:
                raise EnsembleError(f"copies 0 and {index} differ: only one has {key}; build all from one architecture")
            one, two = first[key], other[key]
            if not _equal(one, two):
                if isinstance(one, torch.Tensor | np.ndarray):
                    raise EnsembleError(
                        f"copies 0 and {index} differ in {key}, a tensor that is no buffer: use register_buffer for it"
                    )
                raise EnsembleError(f"copies 0 and {index} differ in {key} ({one!r}, {two!r}): build all copies alike")


def _facts(module: nn.Module) -> Iterator[tuple[str, Any]]:
    named = list(itertools.chain(module.named_parameters(), module.named_buffers()))
    registered = {id(values): name for name, values in named}
    for name, values in named:
        yield f"the shape of {name}", (tuple(values.shape), values.dtype, values.requires_grad)
    for name, part in module.named_modules():
        yield f"the class of {name or 'the network'}", _class(part)
        prefix = f"{name}." if name else ""
        for key, value in vars(part).items():
            if key not in _OWN:
                yield from _inside(f"{prefix}{key}", value, registered)


def _class(part: nn.Module) -> type[nn.Module]:
    """Without the class of its own that torch gives to every layer with a parametrization, itself a part."""
    return type_before_parametrizations(part)


def _inside(path: str, value: Any, registered: Mapping[int, str]) -> Iterator[tuple[str, Any]]:
    """What a value holds, a parameter or buffer of the network by its name: recurrent layers list theirs."""
    if isinstance(value, torch.Tensor) and id(value) in registered:
        yield path, registered[id(value)]
    elif isinstance(value, (*_PLAIN, torch.Tensor, np.ndarray)):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _inside(f"{path}[{key!r}]", item, registered)
    elif isinstance(value, tuple | list):
        yield f"the length of {path}", len(value)
        for index, item in enumerate(value):
            yield from _inside(f"{path}[{index}]", item, registered)


def _equal(one: Any, two: Any) -> bool:
    if type(one) is not type(two):
        return False
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, two)
    return bool(one == two)
