"""What a user may ask of a recording."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from separatrix.runs.errors import UsageError


@dataclasses.dataclass(frozen=True)
class RecordingOptions:
    """The options that `separatrix.record`, `watch` and the callbacks for trainers share; see `record` for each.

    Raises:
        UsageError: a budget outside (0, 1].
    """

    resume: bool = False
    budget: float = 0.05
    memory_budget: float = 0.05
    probes: str | Sequence[str] = "default"
    checkpoints: str | int | None = None
    thumbnails: bool = False
    max_bytes: int | None = None
    config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("budget", "memory_budget"):
            value = getattr(self, name)
            if not 0.0 < value <= 1.0:
                raise UsageError(f"{name} must lie in (0, 1], a share of the training's own use; got {value}")
