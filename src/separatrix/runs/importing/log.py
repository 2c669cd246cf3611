"""What every reader of a foreign log returns: series as read, and notes on what was not plain."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from separatrix.runs.types import Severity


@dataclasses.dataclass(frozen=True)
class Note:
    """Something about a log that a reader of the run should know; becomes an event of the run."""

    kind: str
    message: str
    severity: Severity = "info"
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LogSeries:
    """One series of a log: distinct steps in ascending order, float64 values, labels by dimension.

    A scalar series has no `coords` and `values` of shape (steps,). Otherwise `values` has shape (steps, *labels) and
    `measured`, of the same shape, tells a stored NaN from no value.
    """

    name: str
    steps: np.ndarray
    values: np.ndarray
    coords: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    measured: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Log:
    """A log as read: its series under their own names, and notes."""

    series: tuple[LogSeries, ...]
    notes: tuple[Note, ...] = ()


@dataclasses.dataclass(frozen=True)
class LogFormat:
    """A kind of log: `recognises(path, head)` judges by name and first bytes (empty for a folder); `read` reads it.

    `read` raises ImportSourceError when the log cannot be read or holds no number.
    """

    name: str
    recognises: Callable[[Path, bytes], bool]
    read: Callable[[Path], Log]


def in_order(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps and values by ascending step, which is the last one at its step, and which one a later one contradicts."""
    order = np.argsort(steps, kind="stable")
    steps, values = steps[order], values[order]
    last = np.ones(len(steps), dtype=bool)
    last[:-1] = steps[1:] != steps[:-1]
    same = np.ones(len(steps), dtype=bool)
    same[:-1] = (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
    return steps, values, last, ~last & ~same


def without_duplicates(name: str, steps: np.ndarray, values: np.ndarray) -> tuple[LogSeries, Note | None]:
    """Values by ascending step; of different ones at one step the last is kept, and a note says so."""
    steps, values, last, contradicted = in_order(steps, values)
    series = LogSeries(name, steps[last], values[last])
    dropped = steps[contradicted]
    if not dropped.size:
        return series, None
    where = f"{len(np.unique(dropped))} steps, the first is {dropped[0]}"
    message = f"{name!r} has several values at {where}: the last one counts"
    data = {"series": name, "dropped": int(dropped.size), "first_step": int(dropped[0])}
    return series, Note("duplicate-values", message, "warning", data)
