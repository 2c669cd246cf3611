"""Gathers the cells of a log made of rows (CSV, JSONL, trainer_state.json) and finds the column of the steps."""

from __future__ import annotations

import array
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from separatrix.runs.importing.log import Log, LogSeries, Note, in_order, without_duplicates
from separatrix.runs.importing.text import finite_integer, is_absent, number, shown

_STEP_NAMES = ("step", "global_step", "trainer_global_step", "train_step", "steps", "iteration", "iterations")
_SHORT_STEP_NAMES = (
    "iter",
    "iters",
    "itr",
    "train_iter",
    "update",
    "updates",
    "num_updates",
    "batch",
    "epoch",
    "epochs",
)
_MOST_EVENTS = 50
_FEWEST_ROWS = 4


@dataclasses.dataclass
class _Column:
    values: array.array[float] = dataclasses.field(default_factory=lambda: array.array("d"))
    rows: array.array[int] = dataclasses.field(default_factory=lambda: array.array("q"))
    words: int = 0
    first_word: tuple[int, str] = (0, "")


class Table:
    """Cells by column, each with its row; rows know their place in the file."""

    def __init__(self, unit: str = "line") -> None:
        """An empty table; places are counted in `unit`s from 1."""
        self._unit = unit
        self._columns: dict[str, _Column] = {}
        self._lines: array.array[int] = array.array("q")
        self._notes: list[Note] = []

    def start_row(self, line: int) -> None:
        """Begin the row that stands at `line` of the file."""
        self._lines.append(line)

    def cell(self, column: str, value: Any) -> None:
        """Put a value read from the log into the current row; None and empty text mean that there is none."""
        parsed = _as_number(value)
        if parsed is None and (value is None or (isinstance(value, str) and is_absent(value))):
            return
        held = self._columns.get(column)
        if held is None:
            held = self._columns[column] = _Column()
        if parsed is None:
            if not held.words:
                held.first_word = (self._lines[-1], shown(str(value)))
            held.words += 1
            return
        held.values.append(parsed)
        held.rows.append(len(self._lines) - 1)

    def note(self, note: Note) -> None:
        """Add a note on the log."""
        self._notes.append(note)

    @property
    def has_numbers(self) -> bool:
        """Whether any cell held a number."""
        return any(column.values for column in self._columns.values())

    def finish(self) -> Log:
        """The series of the table, one a column that holds numbers, over the steps in the likeliest column."""
        notes = [*self._notes, *self._word_notes()]
        chosen = self._step_column()
        steps, known, step_notes = self._steps(chosen)
        notes += step_notes
        series: list[LogSeries] = []
        for name, column in self._columns.items():
            rows = np.array(column.rows, dtype=np.int64)
            rows_known = known[rows]
            if name == chosen or not rows_known.any():
                continue
            values = np.array(column.values, dtype=np.float64)[rows_known]
            one, note = without_duplicates(name, steps[rows[rows_known]], values)
            series.append(one)
            notes += [note] if note else []
        return Log(tuple(series), tuple(notes))

    def _steps(self, chosen: str | None) -> tuple[np.ndarray, np.ndarray, list[Note]]:
        """The step of each row, whether it is known, and notes."""
        count = len(self._lines)
        if chosen is None:
            message = (
                "no column numbers the steps without repeating itself: the number of the row, from 0, stands for it"
            )
            return np.arange(count), np.ones(count, dtype=bool), [Note("no-step-column", message, "warning")]
        column = self._columns[chosen]
        values, rows = np.array(column.values), np.array(column.rows, dtype=np.int64)
        usable = np.array([finite_integer(value) for value in values], dtype=bool)
        known = np.zeros(count, dtype=bool)
        known[rows[usable]] = True
        steps = np.zeros(count, dtype=np.int64)
        steps[rows[usable]] = values[usable].astype(np.int64)
        if known.all():
            return steps, known, []
        line = self._lines[int(np.flatnonzero(~known)[0])]
        left_out = int((~known).sum())
        message = (
            f"{left_out} rows have no whole number in {chosen!r}, the first is {self._unit} {line}: they are left out"
        )
        return (
            steps,
            known,
            [Note("row-without-step", message, "warning", {"column": chosen, "line": line, "rows": left_out})],
        )

    def _step_column(self) -> str | None:
        by_name: dict[str, list[str]] = {}
        for name in self._columns:
            by_name.setdefault(_plain(name), []).append(name)
        candidates = (name for plain in (*_STEP_NAMES, *_SHORT_STEP_NAMES) for name in by_name.get(plain, ()))
        return next((name for name in candidates if self._can_be_steps(self._columns[name])), None)

    def _can_be_steps(self, candidate: _Column) -> bool:
        """Whether a column is a count of whole numbers that tells most values of every other column apart.

        A batch number that starts again with every epoch does not, nor does an epoch that lasts many rows.
        """
        if len(candidate.values) <= candidate.words or not all(map(finite_integer, candidate.values)):
            return False
        steps = np.full(len(self._lines), np.nan)
        steps[np.array(candidate.rows, dtype=np.int64)] = candidate.values
        for column in self._columns.values():
            own = steps[np.array(column.rows, dtype=np.int64)]
            known = ~np.isnan(own)
            contradicted = in_order(own[known], np.array(column.values)[known])[-1]
            if column is not candidate and known.sum() >= _FEWEST_ROWS and 2 * contradicted.sum() >= known.sum():
                return False
        return True

    def _word_notes(self) -> Iterator[Note]:
        bad = [(name, column) for name, column in self._columns.items() if column.words]
        for name, column in bad[:_MOST_EVENTS]:
            line, word = column.first_word
            data = {"column": name, "line": line, "cells": column.words}
            if not column.values:
                yield Note(
                    "column-left-out",
                    f"column {shown(name)} holds no number ({self._unit} {line}: {word}): left out",
                    data=data,
                )
                continue
            others = f" and in {column.words - 1} more cells" if column.words > 1 else ""
            message = f"{self._unit} {line}, column {shown(name)}: {word} is no number{others}; taken as not measured"
            yield Note("not-a-number", message, "warning", data)
        if len(bad) > _MOST_EVENTS:
            yield Note("not-a-number", f"{len(bad) - _MOST_EVENTS} more columns hold text", "warning")


def flattened(mapping: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings under dotted names; lists are no numbers and come as text."""
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and depth < 20:
            yield from flattened(value, f"{name}.", depth + 1)
        else:
            yield name, value


def _plain(name: str) -> str:
    """A column's name in lower case, with one underscore between words."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return number(value) if isinstance(value, str) else None
