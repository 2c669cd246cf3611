"""Checks that networks to be stacked differ in the values of parameters and buffers only.

One network stands for all in the batched computation: what another holds elsewhere, such as a random tensor that was
never registered as a buffer, would be lost without a word.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

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
    for name, values in itertools.chain(module.named_parameters(), module.named_buffers()):
        yield f"the shape of {name}", (tuple(values.shape), values.dtype, values.requires_grad)
    for name, part in module.named_modules():
        yield f"the class of {name or 'the network'}", type(part)
        prefix = f"{name}." if name else ""
        for key, value in vars(part).items():
            if key not in _OWN:
                yield from _inside(f"{prefix}{key}", value)


def _inside(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (*_PLAIN, torch.Tensor, np.ndarray)):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _inside(f"{path}[{key!r}]", item)
    elif isinstance(value, tuple | list):
        yield f"the length of {path}", len(value)
        for index, item in enumerate(value):
            yield from _inside(f"{path}[{index}]", item)


def _equal(one: Any, two: Any) -> bool:
    if type(one) is not type(two):
        return False
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, two)
    return bool(one == two)
