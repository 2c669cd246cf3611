"""How much of what a layer says depends on the example: 0 where every example of the batch gets the same output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from separatrix.probes.activations import leading_part
from separatrix.runs.probe import ModuleView, Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec


def measure_variation(view: ModuleView, state: dict[str, Any]) -> Iterator[Reading]:
    """Share of the second moment of a weighted layer's outputs that is variance over the batch, its first dimension.

    1 - mean over units of (mean over the batch)² / mean square: in [0, 1]. Layers without parameters are left out, for
    they repeat what they are given. NaN where the output is zero everywhere.
    """
    if not view.output.is_floating_point() or view.output.dim() < 2 or view.output.shape[0] < 2:
        return
    if not view.module._parameters:
        return
    part = leading_part(view.output)
    part = part.float() if part.dtype in (torch.float16, torch.bfloat16) else part
    yield Reading("batch_variance_share", variance_share(part))


def variance_share(rows: torch.Tensor) -> torch.Tensor:
    """Share of the second moment that is variance over the first dimension; NaN where all is zero."""
    variance, mean = torch.var_mean(rows, dim=0, correction=0)
    within = variance.mean()
    whole = within + mean.square().mean()
    return torch.where(whole > 0.0, within / whole, torch.nan)


variation = Probe(
    name="variation",
    moment=Moment.MODULE,
    series=(
        SeriesSpec(
            "batch_variance_share",
            ("module",),
            description="share of the second moment of a weighted layer's output that varies over the batch",
        ),
    ),
    measure=measure_variation,
    description="how much of a layer's output differs between the examples of a batch",
    priority=45,
)
