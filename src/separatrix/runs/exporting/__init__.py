"""Writes the series of a run for other tools: CSV, Parquet or TensorBoard event files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from separatrix.runs.errors import RunExistsError, UsageError
from separatrix.runs.exporting import parquet, table, tensorboard
from separatrix.runs.run import Run

FORMATS: Mapping[str, Callable[[Run, Path], Path]] = {
    "csv": table.write,
    "parquet": parquet.write,
    "tensorboard": tensorboard.write,
}
"""The formats that a run can be exported to, by name."""

_FILE_NAMES = {"csv": "series.csv", "parquet": "series.parquet"}

__all__ = ["FORMATS", "export_run"]


def export_run(run: Run, kind: str, destination: str | os.PathLike[str]) -> Path:
    """Write all series of `run` to `destination`; the path of the file or, for tensorboard, of the folder written.

    `csv` and `parquet` are one long table each: series, step, one column a dimension, value. An empty folder as
    destination of a table gets the file series.csv or series.parquet. What could not be completed is removed again.

    Raises:
        UsageError: there is no such format.
        RunExistsError: the destination exists and is no empty folder.
        MissingExtraError: the package that writes the format is not installed.
    """
    path = Path(destination)
    if kind not in FORMATS:
        raise UsageError(f"{kind!r} is no format to export to: choose from {', '.join(FORMATS)}")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise RunExistsError(f"{path} exists and is not an empty folder: choose another destination")
    if path.is_dir() and kind in _FILE_NAMES:
        path = path / _FILE_NAMES[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    return FORMATS[kind](run, path)
