"""What the training's process uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from separatrix.record.process import resident_bytes
from separatrix.runs.probe import Moment, Probe, Reading, StepView
from separatrix.runs.types import SeriesSpec


def measure_memory(view: StepView, state: dict[str, Any]) -> Iterator[Reading]:
    """Memory in bytes: allocated on the accelerator where the model lives on one, else resident."""
    if view.device.type == "cuda":
        yield Reading("memory_bytes", float(torch.cuda.memory_allocated(view.device)))
        return
    resident = resident_bytes()
    if resident is not None:
        yield Reading("memory_bytes", float(resident))


memory = Probe(
    name="memory",
    moment=Moment.STEP,
    series=(SeriesSpec("memory_bytes", units="bytes", description="memory used by the training's process or device"),),
    measure=measure_memory,
    description="memory of the process, or of the accelerator in use",
    priority=8,
)
