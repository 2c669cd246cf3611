"""Units that repeat one another: rows of a weight that are equal stay equal, however long the training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from separatrix.probes._tensors import local
from separatrix.runs.probe import Moment, Probe, Reading, UpdateView
from separatrix.runs.types import SeriesSpec

RESOLUTION = 1e-5
"""Rows count as equal where their projections differ by less than this part of the largest row's norm."""


def repeated_rows(weight: torch.Tensor) -> torch.Tensor:
    """Share of the rows (first dim, at least two) of a weight that equal another row, to a part in 10^5; a scalar.

    Rows are compared by two fixed projections, sorted by the first: O(n log n) for n rows. Different rows are taken for
    equal only where they differ across both directions, and equal ones for different only where a third row agrees
    with them in the first projection to the same part and not in the second.
    """
    rows = weight.detach().reshape(weight.shape[0], -1)
    rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
    places = torch.arange(1, rows.shape[1] + 1, device=rows.device, dtype=rows.dtype)
    # Incommensurate frequencies: no row of a regular pattern is orthogonal to both.
    directions = torch.stack((torch.cos(places * 1.4142135), torch.cos(places * 1.7320508 + 0.5)), dim=1)
    projections = rows @ directions
    ordered = projections[projections[:, 0].argsort()]
    size = torch.linalg.vector_norm(rows, dim=1).amax()
    equal = ((ordered[1:] - ordered[:-1]).abs() <= RESOLUTION * size).all(dim=1)
    ends = equal.new_zeros(1)
    return (torch.cat((ends, equal)) | torch.cat((equal, ends))).float().mean()


def measure_symmetry(view: UpdateView, state: dict[str, Any]) -> Iterator[Reading]:
    """Share of repeated rows of every weight of two or more dims and rows, before the step.

    Rows that differ once will differ: a parameter is looked at the first, second, fourth, eighth, ... time it is shown.
    """
    seen = state.setdefault("seen", {})
    if not view.parameters:
        return
    first = id(view.parameters[0])
    seen[first] = shown = seen.get(first, 0) + 1
    if shown & (shown - 1):
        return
    weights = [local(t) for t in view.before]
    positions = [
        i for i, w in enumerate(weights) if w.dim() >= 2 and len(w) >= 2 and w.numel() and w.is_floating_point()
    ]
    if positions:
        yield Reading("repeated_row_share", torch.stack([repeated_rows(weights[i]) for i in positions]), positions)


symmetry = Probe(
    name="symmetry",
    moment=Moment.UPDATE,
    series=(
        SeriesSpec(
            "repeated_row_share",
            ("parameter",),
            description="share of a weight's rows that equal another of its rows to a part in 10^5",
        ),
    ),
    measure=measure_symmetry,
    description="units that repeat one another, as after a constant initialisation",
    priority=80,
)
