"""What a sweep runs: a script that is watched, or a study; how values get there, and how a result is read."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from separatrix.steer.tuning.errors import SweepError
from separatrix.steer.tuning.objective import Direction, Metric, Reading, RunReading, StudyReading
from separatrix.steer.tuning.space import Space, Value, spelled

STOP_ON = ("diverging", "dead-units", "nonfinite")
"""Findings that stop a trial by default: of each, training on is a loss of time."""


class Target(Protocol):
    """What a sweep runs once for each trial."""

    @property
    def judged_by(self) -> str:
        """The metric, in words."""

    @property
    def direction(self) -> Direction:
        """Whether small or large values of the metric are good."""

    def check(self, space: Space) -> None:
        """Make sure that it can be run with values of the space.

        Raises:
            SeparatrixError: it cannot.
        """

    def command(self, values: Mapping[str, Value], folder: Path) -> list[str]:
        """The command of a trial whose result goes into a folder that does not exist yet."""

    def reading(self, folder: Path) -> Reading:
        """How that result is read."""

    def shown(self, values: Mapping[str, Value]) -> list[str]:
        """A command for people that does the same with these values."""

    def described(self) -> list[str]:
        """What it is; targets of equal descriptions are the same."""


@dataclasses.dataclass(frozen=True)
class ScriptTarget:
    """A script under `separatrix watch`, that takes its values as arguments.

    Where an argument holds `{name}`, the value of that name is put in its place; values that no argument holds are
    added at the end as `--name=value`, since argparse takes a separate `-1e-05` for an option.
    """

    script: str
    arguments: Sequence[str] = ()
    metric: Metric = dataclasses.field(default_factory=lambda: Metric("eval_loss"))
    stop_on: Sequence[str] = STOP_ON
    budget: float = 0.05
    goal: Direction | None = None

    @property
    def judged_by(self) -> str:
        """See Target.judged_by."""
        return str(self.metric)

    @property
    def direction(self) -> Direction:
        """See Target.direction."""
        return self.goal or self.metric.direction

    def check(self, space: Space) -> None:
        """See Target.check.

        Raises:
            UsageError: there is no such script.
        """
        from separatrix.record.watch import check_target

        check_target(self.script, module=False)
        self.reading(Path())

    def command(self, values: Mapping[str, Value], folder: Path) -> list[str]:
        """See Target.command."""
        watch = ["watch", "--quiet", "--budget", str(self.budget), "--run", str(folder)]
        return [sys.executable, "-m", "separatrix", *watch, self.script, *self._filled(values)]

    def reading(self, folder: Path) -> Reading:
        """See Target.reading."""
        return RunReading(str(folder), self.metric, tuple(self.stop_on))

    def shown(self, values: Mapping[str, Value]) -> list[str]:
        """See Target.shown."""
        return ["separatrix", "watch", self.script, *self._filled(values)]

    def described(self) -> list[str]:
        """See Target.described."""
        return ["script", str(Path(self.script).resolve()), *self.arguments]

    def _filled(self, values: Mapping[str, Value]) -> list[str]:
        filled, placed = list(self.arguments), set()
        for name, value in values.items():
            slot = "{" + name + "}"
            if any(slot in argument for argument in filled):
                placed.add(name)
                filled = [argument.replace(slot, spelled(value)) for argument in filled]
        for name, value in values.items():
            if name not in placed:
                filled.append(f"--{name}={spelled(value)}")
        return filled


@dataclasses.dataclass(frozen=True)
class StudyTarget:
    """A study, whose settings are the values; `metric` is `passed` or one of its claims, see `StudyReading`."""

    study: str
    settings: Sequence[str]
    metric: str = "passed"
    quick: bool = True
    seed: int = 0
    goal: Direction | None = None

    @property
    def judged_by(self) -> str:
        """See Target.judged_by."""
        return self.metric

    @property
    def direction(self) -> Direction:
        """See Target.direction."""
        return self.goal or "minimize"

    def check(self, space: Space) -> None:
        """See Target.check.

        Raises:
            SweepError: the study has no such setting.
        """
        if unknown := [name for name in space.names if name not in self.settings]:
            known = ", ".join(self.settings) or "none"
            raise SweepError(f"study {self.study} has no setting {unknown[0]!r}: choose from {known}")

    def command(self, values: Mapping[str, Value], folder: Path) -> list[str]:
        """See Target.command."""
        return [sys.executable, "-m", "separatrix", *self._arguments(values), "--json", "--out", str(folder)]

    def reading(self, folder: Path) -> Reading:
        """See Target.reading."""
        return StudyReading(str(folder), self.metric)

    def shown(self, values: Mapping[str, Value]) -> list[str]:
        """See Target.shown."""
        return ["separatrix", *self._arguments(values)]

    def described(self) -> list[str]:
        """See Target.described."""
        return ["study", self.study, str(self.quick), str(self.seed)]

    def _arguments(self, values: Mapping[str, Value]) -> list[str]:
        settings = [part for name, value in values.items() for part in ("--set", f"{name}={spelled(value)}")]
        return ["study", "run", self.study, *(["--quick"] if self.quick else []), "--seed", str(self.seed), *settings]
