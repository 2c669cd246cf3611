"""CSV: one long table with the columns series, step, one a dimension, value."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

from separatrix.runs.exporting.rows import Rows, dimensions, replaced_when_complete, rows
from separatrix.runs.run import Run


def write(run: Run, destination: Path) -> Path:
    """Write the table in UTF-8; numbers read back bit for bit, `nan`, `inf` and `-inf` stand for themselves."""
    dims = dimensions(run)
    with replaced_when_complete(destination) as path, path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["series", "step", *dims, "value"])
        for part in rows(run):
            writer.writerows(_lines(part, dims))
    return destination


def _lines(part: Rows, dims: tuple[str, ...]) -> zip[tuple[object, ...]]:
    labels = [part.labels[dim].tolist() if dim in part.labels else itertools.repeat("") for dim in dims]
    values = (repr(value) for value in part.values.astype(float).tolist())
    return zip(itertools.repeat(part.series), part.steps.tolist(), *labels, values)
