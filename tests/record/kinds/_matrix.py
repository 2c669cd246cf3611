"""The committed table of what is recorded of each kind of training."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path

from tests.record.kinds.kind import APPLIES, Kind

from separatrix.runs import Run

PAGE = Path(__file__).resolve().parents[3] / "docs" / "matrix.md"
RECORDED, SENSELESS, HIDDEN = "yes", "-", "no"
SNAPSHOT_PROBE, SNAPSHOT_SERIES = "weight-travel", "weight_distance"
"""A cheap probe of snapshots, and a series that it writes whenever one is taken."""
INTRODUCTION = """\
# What is recorded of each kind of training

Every kind below is a small training that the tests record and compare with numbers computed without the recorder.
`yes`: the series is recorded. `-`: it makes no sense there; the second column says where it does. `no`: it cannot be
seen; the list at the end says because of what, as an event of the run does. Series are explained in
[Recording](recording.md); `overhead`, which is recorded of every training that is not over at once, is left out here.

`snapshot` says whether a step can be held as a replay, which the [probes of snapshots](probes.md) need.

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
        for series in event.data.get("series", ())
        if series in APPLIES
    }


def no_snapshot(run: Run) -> str:
    """Why no snapshot was taken, as the run's events say; empty where one was."""
    if SNAPSHOT_SERIES in run.names():
        return ""
    said = [e.data["because"] for e in run.events if SNAPSHOT_SERIES in e.data.get("series", ())]
    return " / ".join(map(str, said)) or "?"


def marks(kind: Kind, recorded: Set[str], hidden: Mapping[str, str]) -> dict[str, str]:
    """The column of a kind."""
    column = {}
    for series in APPLIES:
        absent = HIDDEN if series in hidden and series in kind.applicable() else SENSELESS
        column[series] = RECORDED if series in recorded else absent
    return column


def page(columns: Mapping[str, Mapping[str, str]], kinds: Mapping[str, Kind]) -> str:
    """The whole page."""
    numbers = range(1, len(columns) + 1)
    lines = [INTRODUCTION, "| number | kind of training | series recorded | snapshot |", "|---|---|---|---|"]
    for number, (name, column) in zip(numbers, columns.items(), strict=True):
        count = sum(mark == RECORDED for mark in column.values())
        lines.append(f"| {number} | {name} | {count} | {HIDDEN if kinds[name].no_snapshot else 'replayed'} |")
    lines += ["", "| series | makes sense for | " + " | ".join(map(str, numbers)) + " |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for series, (where, _) in APPLIES.items():
        row = " | ".join(column[series] for column in columns.values())
        lines.append(f"| `{series}` | {where} | {row} |")
    lines += ["", "## Not seen, because", ""]
    for number, name in zip(numbers, columns, strict=True):
        reasons = kinds[name].hidden()
        for because in dict.fromkeys(reasons.values()):
            names = ", ".join(f"`{s}`" for s, b in reasons.items() if b == because and columns[name][s] == HIDDEN)
            lines.append(f"- {number}, {name}: {because} ({names})")
    lines += ["", "## No snapshot, because", ""]
    lines += [
        f"- {n}, {name}: {kinds[name].no_snapshot}"
        for n, name in zip(numbers, columns, strict=True)
        if kinds[name].no_snapshot
    ]
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
