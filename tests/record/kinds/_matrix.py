"""The committed table of what is recorded of each kind of training."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path

from tests.record.kinds.kind import APPLIES, Kind

from separatrix.runs import Run

PAGE = Path(__file__).resolve().parents[3] / "docs" / "matrix.md"
RECORDED, SENSELESS, HIDDEN = "yes", "-", "no"
INTRODUCTION = """\
# What is recorded of each kind of training

Every kind below is a small training that the tests record and compare with numbers computed without the recorder.
`yes`: the series is recorded. `-`: it makes no sense there; the second column says where it does. `no`: it cannot be
seen; the list at the end says because of what, as an event of the run does. Series are explained in
[Recording](recording.md); `overhead`, which is recorded of every training that is not over at once, is left out here.

This page is written by `python -m tests.record.kinds`; a test fails when it differs from what is recorded.
"""


def recorded_names(run: Run) -> set[str]:
    """Series of the default set that hold values."""
    return set(run.names()) & set(APPLIES)


def hidden_names(run: Run) -> dict[str, str]:
    """Series that the run's events say are not seen, and because of what."""
    return {
        series: str(event.data["because"])
        for event in run.events
        if event.kind == "unseen"
        for series in event.data["series"]
    }


def marks(kind: Kind, recorded: Set[str], hidden: Mapping[str, str]) -> dict[str, str]:
    """The column of a kind."""
    column = {}
    for series in APPLIES:
        absent = HIDDEN if series in hidden and series in kind.applicable() else SENSELESS
        column[series] = RECORDED if series in recorded else absent
    return column


def page(columns: Mapping[str, Mapping[str, str]], hidden: Mapping[str, Mapping[str, str]]) -> str:
    """The whole page."""
    numbers = range(1, len(columns) + 1)
    lines = [INTRODUCTION, "| number | kind of training | series recorded |", "|---|---|---|"]
    for number, (name, column) in zip(numbers, columns.items(), strict=True):
        lines.append(f"| {number} | {name} | {sum(mark == RECORDED for mark in column.values())} |")
    lines += ["", "| series | makes sense for | " + " | ".join(map(str, numbers)) + " |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for series, (where, _) in APPLIES.items():
        row = " | ".join(column[series] for column in columns.values())
        lines.append(f"| `{series}` | {where} | {row} |")
    lines += ["", "## Not seen, because", ""]
    for number, (name, reasons) in zip(numbers, hidden.items(), strict=True):
        for because in dict.fromkeys(reasons.values()):
            names = ", ".join(f"`{s}`" for s, b in reasons.items() if b == because and columns[name][s] == HIDDEN)
            lines.append(f"- {number}, {name}: {because} ({names})")
    return "\n".join(lines) + "\n"


def committed(text: str) -> dict[str, dict[str, str]]:
    """The columns of a page, by kind."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    names = {row[0]: row[1] for row in rows if row[0].isdigit()}
    header = next(row for row in rows if row[0] == "series")
    table = [row for row in rows if row[0].startswith("`")]
    return {
        names[number]: {row[0].strip("`"): row[index] for row in table}
        for index, number in enumerate(header)
        if number.isdigit()
    }
