"""JSON Lines: one object a line, nested objects under dotted names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from separatrix.runs.errors import ImportSourceError
from separatrix.runs.importing import text, trainer_state
from separatrix.runs.importing.log import Log, LogFormat, Note
from separatrix.runs.importing.table import Table, flattened


def parsed(line: str) -> Any:
    """The JSON value of a line; ValueError if it holds none."""
    try:
        return json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _recognises(path: Path, head: bytes) -> bool:
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return True
    if path.name == trainer_state.FILE_NAME:
        return False
    first_line = text.decoded(head).lstrip().split("\n", 1)[0]
    if not first_line.startswith("{"):
        return False
    try:
        row = parsed(first_line)
    except ValueError:
        return False
    return isinstance(row, dict) and "log_history" not in row


def _read(path: Path) -> Log:
    table = Table()
    bad: list[int] = []
    for line_number, line in enumerate(text.lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = parsed(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            bad.append(line_number)
            continue
        table.start_row(line_number)
        for name, value in flattened(row):
            table.cell(name, value)
    if not table.has_numbers:
        reason = "is empty" if not bad and not path.stat().st_size else "holds no JSON object with a number"
        raise ImportSourceError(f"{path} {reason}: give a log with one JSON object a line")
    if bad:
        message = f"{len(bad)} lines are no JSON object, the first is line {bad[0]}: they are left out"
        table.note(Note("unreadable-line", message, "warning", {"line": bad[0], "lines": len(bad)}))
    return table.finish()


FORMAT = LogFormat("jsonl", _recognises, _read)
