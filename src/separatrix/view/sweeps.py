"""A sweep in the terminal: its trials as a table, best first, and the command that repeats the best one."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from separatrix.steer.tuning import Row, SweepResult

_NOTE = 90


def lines(result: SweepResult) -> Iterator[str]:
    """The table and the best command."""
    rows = [_cells(row) for row in result.ranked]
    names = list(dict.fromkeys(name for row in result.rows for name in row.parameters))
    head = ["trial", result.metric, "state", "steps", *names, "note"]
    table = [head, *([*cells[:4], *(cells[4].get(name, "-") for name in names), cells[5]] for cells in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    best = result.best
    if best is None:
        yield "no trial finished; look at the notes above, and give other ranges"
        return
    yield f"best: trial {best.number}, {result.metric} {best.value:.6g}, recorded in {best.run}"
    yield f"again: {shlex.join(result.command)}"


def line(row: Row, metric: str) -> str:
    """One trial that ended, while the sweep goes on."""
    values = ", ".join(f"{name}={_short(value)}" for name, value in row.parameters.items())
    outcome = f"{metric} {row.value:.6g}" if row.state == "finished" and row.value is not None else row.state
    return f"trial {row.number}: {outcome} ({values}){f'; {row.note}' if row.note else ''}"


def _cells(row: Row) -> tuple[str, str, str, str, dict[str, str], str]:
    value = "-" if row.value is None else f"{row.value:.6g}"
    note = row.note or (f"found: {', '.join(row.findings)}" if row.findings else "")
    shown = note if len(note) <= _NOTE else note[: _NOTE - 3] + "..."
    values = {name: _short(value) for name, value in row.parameters.items()}
    return str(row.number), value, row.state, str(row.step or "-"), values, shown


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
