"""A target whose trials write runs of planted losses without torch, so that a sweep's own doings are tested fast."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from separatrix.steer.tuning import Metric, Space
from separatrix.steer.tuning.objective import Direction, Reading, RunReading

PROGRAM = Path(__file__).with_name("_planted_trial.py")


@dataclasses.dataclass(frozen=True)
class PlantedTarget:
    """Runs `_planted_trial.py`; `steps` of `pause` seconds each."""

    steps: int = 40
    pause: float = 0.0
    metric: Metric = dataclasses.field(default_factory=lambda: Metric("eval_loss"))
    stop_on: Sequence[str] = ("diverging", "nonfinite")
    direction: Direction = "minimize"
    python: str = sys.executable

    @property
    def judged_by(self) -> str:
        return str(self.metric)

    def check(self, space: Space) -> None:
        pass

    def command(self, values: Mapping[str, Any], folder: Path) -> list[str]:
        settings = [f"{name}={value}" for name, value in values.items()]
        return [self.python, str(PROGRAM), str(folder), str(self.steps), str(self.pause), *settings]

    def reading(self, folder: Path) -> Reading:
        return RunReading(str(folder), self.metric, tuple(self.stop_on))

    def shown(self, values: Mapping[str, Any]) -> list[str]:
        return ["planted", *(f"{name}={value}" for name, value in values.items())]

    def described(self) -> list[str]:
        return ["planted"]
