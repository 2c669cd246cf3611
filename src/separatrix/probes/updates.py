"""Weights and what a step did to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from separatrix.probes._tensors import local, root_mean_squares
from separatrix.runs.probe import Moment, Probe, Reading, UpdateView
from separatrix.runs.types import SeriesSpec


def measure_updates(view: UpdateView, state: dict[str, Any]) -> Iterator[Reading]:
    """RMS of each parameter before the step and of its change by the step, and their ratio (NaN for zero weights)."""
    before = [local(t) for t in view.before]
    if not before:
        return
    weights = root_mean_squares(before)
    yield Reading("weight_rms", weights)
    after = [local(t) for t in view.parameters]
    torch._foreach_sub_(before, after)
    changes = root_mean_squares(before)
    yield Reading("update_rms", changes)
    yield Reading("update_ratio", torch.where(weights > 0, changes / weights, torch.nan))


updates = Probe(
    name="updates",
    moment=Moment.UPDATE,
    series=(
        SeriesSpec("weight_rms", ("parameter",), description="root mean square of the parameter before the step"),
        SeriesSpec("update_rms", ("parameter",), description="root mean square of the step's change to the parameter"),
        SeriesSpec("update_ratio", ("parameter",), description="update_rms over weight_rms"),
    ),
    measure=measure_updates,
    description="size of each parameter and of its change in one step",
    priority=90,
)
