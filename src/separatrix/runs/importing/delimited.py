"""CSV and its relatives: a header line and one column a series, or the long table that `separatrix export` writes."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from separatrix.runs.errors import ImportSourceError
from separatrix.runs.importing import text
from separatrix.runs.importing.log import Log, LogFormat, LogSeries, Note
from separatrix.runs.importing.table import Table
from separatrix.runs.types import DIMS

_SUFFIXES = (".csv", ".tsv", ".txt", ".log", ".dat")
_DELIMITERS = (",", "\t", ";", "|")
_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?")
_SINGLE_TAG = ("wall time", "step", "value")

Row = tuple[int, list[str]]


def _recognises(path: Path, head: bytes) -> bool:
    if path.is_dir():
        return (path / "metrics.csv").is_file()
    return path.suffix.lower() in _SUFFIXES or any(mark in text.decoded(head).split("\n", 1)[0] for mark in _DELIMITERS)


def _read(path: Path) -> Log:
    file = path / "metrics.csv" if path.is_dir() else path
    delimiter = _delimiter(file)
    rows = _rows(file, delimiter)
    header = _header(file, rows)
    if header[:2] == ["series", "step"] and header[-1] == "value" and set(header[2:-1]) <= set(DIMS):
        return _read_long(file, header, rows)
    return _read_wide(file, header, rows, decimal_comma=delimiter == ";")


def _delimiter(path: Path) -> str:
    """The character that splits the header into most pieces; runs of blanks count as one when there is no other."""
    first = next((line for line in text.lines(path) if line.strip()), "")
    counts = {delimiter: len(next(csv.reader([first], delimiter=delimiter))) for delimiter in _DELIMITERS}
    best = max(_DELIMITERS, key=counts.__getitem__)
    return " " if counts[best] == 1 and " " in first.strip() else best


def _rows(path: Path, delimiter: str) -> Iterator[Row]:
    """Each row with the line on which it ends; empty ones are left out."""
    reader = csv.reader(text.lines(path), delimiter=delimiter, skipinitialspace=True)
    try:
        for row in reader:
            cells = [cell for cell in row if cell] if delimiter == " " else row
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise ImportSourceError(f"{path}, line {reader.line_num}: {error}; it is no table of numbers") from error


def _header(path: Path, rows: Iterator[Row]) -> list[str]:
    _, header = next(rows, (0, []))
    if not header:
        raise ImportSourceError(f"{path} is empty: give a CSV file with a header line and rows of numbers")
    names = [name.strip() for name in header]
    if all(text.number(name) is not None for name in names):
        raise ImportSourceError(f"{path} has no header line: add one that names its {len(names)} columns")
    return names


def _unique(header: list[str]) -> list[str]:
    """Names for all columns: unnamed ones get their number, repeated ones a suffix."""
    seen: dict[str, int] = {}
    names = []
    for index, name in enumerate(header, start=1):
        wanted = name or f"column_{index}"
        seen[wanted] = seen.get(wanted, 0) + 1
        names.append(wanted if seen[wanted] == 1 else f"{wanted}_{seen[wanted]}")
    return names


def _read_wide(path: Path, header: list[str], rows: Iterator[Row], decimal_comma: bool) -> Log:
    table = Table()
    names = _unique(header)
    if tuple(name.lower() for name in header) == _SINGLE_TAG:
        # TensorBoard's own download: one tag a file, named only by the file.
        names[2] = path.stem.rpartition("-tag-")[2].replace("_", "/", 1) or "value"
    too_long: list[int] = []
    commas = 0
    for line, cells in rows:
        table.start_row(line)
        for name, cell in zip(names, cells, strict=False):
            if decimal_comma and _DECIMAL_COMMA.fullmatch(cell.strip()):
                commas += 1
                cell = cell.replace(",", ".")
            table.cell(name, cell)
        if any(cell.strip() for cell in cells[len(names) :]):
            too_long.append(line)
    if not table.has_numbers:
        raise ImportSourceError(f"{path} holds no number below its header: give a CSV file with numeric columns")
    if too_long:
        message = (
            f"{len(too_long)} rows are longer than the header, the first is line {too_long[0]}: the surplus is left out"
        )
        table.note(Note("long-row", message, "warning", {"line": too_long[0], "rows": len(too_long)}))
    if commas:
        table.note(Note("decimal-comma", f"{commas} cells were read with a comma as decimal point"))
    return table.finish()


def _read_long(path: Path, header: list[str], rows: Iterator[Row]) -> Log:
    """The exported table: columns series, step, one a dimension, value."""
    dims = header[2:-1]
    entries: dict[str, list[tuple[int, tuple[str, ...], float]]] = {}
    used: dict[str, set[int]] = {}
    bad: list[int] = []
    for line, cells in rows:
        step = text.number(cells[1]) if len(cells) == len(header) else None
        value = text.number(cells[-1]) if len(cells) == len(header) else None
        if step is None or value is None or not text.finite_integer(step):
            bad.append(line)
            continue
        labels = tuple(cells[2:-1])
        entries.setdefault(cells[0], []).append((int(step), labels, value))
        used.setdefault(cells[0], set()).update(index for index, label in enumerate(labels) if label)
    if not entries:
        raise ImportSourceError(f"{path} holds no value below its header: it was exported from a run without values")
    notes = []
    if bad:
        message = f"{len(bad)} rows hold no step or no value, the first is line {bad[0]}: they are left out"
        notes.append(Note("not-a-number", message, "warning", {"line": bad[0], "rows": len(bad)}))
    series = tuple(
        _assembled(name, rows_of, [(i, dims[i]) for i in sorted(used[name])]) for name, rows_of in entries.items()
    )
    return Log(series, tuple(notes))


def _assembled(name: str, entries: list[tuple[int, tuple[str, ...], float]], dims: list[tuple[int, str]]) -> LogSeries:
    steps, where = np.unique(np.array([step for step, _, _ in entries], dtype=np.int64), return_inverse=True)
    coords = {dim: tuple(dict.fromkeys(labels[i] for _, labels, _ in entries)) for i, dim in dims}
    positions = [{label: k for k, label in enumerate(labels)} for labels in coords.values()]
    values = np.full((len(steps), *map(len, coords.values())), np.nan)
    measured = np.zeros(values.shape, dtype=bool)
    for row, (_, labels, value) in zip(where, entries, strict=True):
        index = (row, *(position[labels[i]] for position, (i, _) in zip(positions, dims, strict=True)))
        values[index] = value
        measured[index] = True
    return LogSeries(name, steps, values, coords, measured)


FORMAT = LogFormat("csv", _recognises, _read)
