"""Signatures of paths: iterated integrals, whose means determine the law of a stochastic process.

Of a path X with d channels, level k has the d^k integrals of dX_{i1} ... dX_{ik} over ordered times. Each piece of a
path that is linear between its points has the tensor exponential of its increment as signature, and that of the whole
is their product (Chen 1958; Lyons 1998), which is taken of all neighbours at once, then of these.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def signatures(
    increments: Float[Tensor, "steps batch channel"], depth: int
) -> tuple[Float[Tensor, "batch words"], ...]:
    """Levels 1 to `depth` of each path, words in alphabetical order; differentiable."""
    levels = [increments]
    for level in range(2, depth + 1):
        levels.append(_tensor(levels[-1], increments) / level)
    while len(levels[0]) > 1:
        if len(levels[0]) % 2:  # a piece of length 0 changes nothing
            levels = [torch.cat([each, torch.zeros_like(each[:1])]) for each in levels]
        levels = _chained([each[::2] for each in levels], [each[1::2] for each in levels])
    return tuple(each[0] for each in levels)


def _chained(first: list[Tensor], last: list[Tensor]) -> list[Tensor]:
    """Signatures of paths that go on where others end."""
    chained = []
    for level, (ours, theirs) in enumerate(zip(first, last, strict=True)):
        total = ours + theirs
        for split in range(level):
            total = total + _tensor(first[split], last[level - 1 - split])
        chained.append(total)
    return chained


def _tensor(first: Tensor, last: Tensor) -> Tensor:
    return (first[..., None] * last[..., None, :]).flatten(-2)


def with_time_and_start(
    paths: Float[Tensor, "time batch variable"], span: float = 1.0
) -> Float[Tensor, "time batch channel"]:
    """Increments of paths that come from 0 first, which shows where they start, and have time as a first channel."""
    steps = paths.shape[0] - 1
    clock = torch.full((*paths.shape[:2], 1), span / steps, dtype=paths.dtype)
    clock[0] = 0.0
    return torch.cat([clock, torch.cat([paths[:1], paths.diff(dim=0)])], 2)
