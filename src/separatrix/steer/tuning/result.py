"""What a sweep found: its trials as rows, the best of them, and the command that repeats it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from separatrix.steer.tuning.objective import Direction
from separatrix.steer.tuning.space import Value

RowState = Literal["finished", "stopped", "failed", "lost", "waiting", "running"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One trial.

    `stopped` trials were ended early, or gave no finite value, for the reason in `note`; `failed` ones ended with an
    error; `lost` ones were interrupted and their values given back, `retry_of` names the trial that a trial repeats.
    `run` is the folder of its run or result, `step` its last step; `findings` are what was found wrong at its end.
    """

    number: int
    state: RowState
    value: float | None
    parameters: Mapping[str, Value]
    note: str = ""
    run: str = ""
    step: int = 0
    findings: tuple[str, ...] = ()
    worker: str = ""
    retry_of: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for strict JSON."""
        return {**dataclasses.asdict(self), "parameters": dict(self.parameters), "findings": list(self.findings)}


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """The trials of a sweep in the order of their numbers; `command` repeats the best one."""

    name: str
    folder: str
    metric: str
    direction: Direction
    rows: tuple[Row, ...]
    command: Sequence[str] = ()

    @property
    def best(self) -> Row | None:
        """The finished trial with the best value, the earlier of equal ones; None where none finished."""
        finished = [row for row in self.rows if row.state == "finished" and row.value is not None]
        sign = 1.0 if self.direction == "minimize" else -1.0
        return min(finished, key=lambda row: (sign * (row.value or 0.0), row.number), default=None)

    @property
    def ranked(self) -> tuple[Row, ...]:
        """Finished trials, best first, then stopped, failed and lost ones."""
        order = ("finished", "stopped", "failed", "lost", "waiting", "running")
        sign = 1.0 if self.direction == "minimize" else -1.0

        def rank(row: Row) -> tuple[int, float, int]:
            value = math.inf if row.value is None or row.state != "finished" else sign * row.value
            return order.index(row.state), value, row.number

        return tuple(sorted(self.rows, key=rank))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for strict JSON."""
        best = self.best
        return {
            "name": self.name,
            "folder": self.folder,
            "metric": self.metric,
            "direction": self.direction,
            "trials": [row.to_dict() for row in self.rows],
            "best": None if best is None else best.to_dict(),
            "command": list(self.command),
        }


def rows_of(study: Any) -> tuple[Row, ...]:
    """The trials that an Optuna study holds."""
    return tuple(_row(trial) for trial in study.get_trials(deepcopy=False))


def values_of(trial: Any) -> dict[str, Value]:
    """The values of an Optuna trial, those enqueued for it that it has not taken up yet included."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _row(trial: Any) -> Row:
    notes = trial.user_attrs
    states: Mapping[str, RowState] = {
        "COMPLETE": "finished",
        "PRUNED": "stopped",
        "FAIL": "lost" if notes.get("lost") else "failed",
        "WAITING": "waiting",
        "RUNNING": "running",
    }
    value = trial.value if trial.state.name in ("COMPLETE", "PRUNED") else None
    return Row(
        number=trial.number,
        state=states[trial.state.name],
        value=None if value is None or not math.isfinite(value) else float(value),
        parameters=values_of(trial),
        note=notes.get("note", ""),
        run=notes.get("run", ""),
        step=notes.get("step", 0),
        findings=tuple(notes.get("findings", ())),
        worker=notes.get("worker", ""),
        retry_of=notes.get("retry_of"),
    )
