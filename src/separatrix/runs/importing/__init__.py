"""Makes runs from the logs of other tools, so that trainings recorded elsewhere can be looked at and diagnosed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from separatrix.runs.errors import ImportSourceError, RunExistsError
from separatrix.runs.importing import delimited, jsonl, tensorboard, trainer_state
from separatrix.runs.importing.log import Log, LogFormat, LogSeries, Note
from separatrix.runs.importing.names import mapped
from separatrix.runs.types import SeriesSpec
from separatrix.runs.writer import RunWriter

FORMATS: tuple[LogFormat, ...] = (tensorboard.FORMAT, jsonl.FORMAT, trainer_state.FORMAT, delimited.FORMAT)
"""The kinds of log that can be read, in the order in which they are asked whether they recognise one."""

_HEAD_BYTES = 65_536

__all__ = ["FORMATS", "ImportResult", "import_run", "read_log"]


@dataclasses.dataclass(frozen=True)
class ImportResult:
    """What was imported: the run's folder, the kind of log, names in the log to names in the run, notes; counts."""

    path: Path
    format: str
    names: Mapping[str, str]
    notes: tuple[Note, ...]
    series: int
    steps: int


def import_run(source: str | os.PathLike[str], destination: str | os.PathLike[str]) -> ImportResult:
    """Make a finished run at `destination` from the log at `source`.

    Names are mapped onto those of a recording where there is no doubt; the mapping is kept in the run's meta `import`.
    Numbers are stored as read (float64). What was not plain in the log becomes events of the run. When the log cannot
    be read nothing is written.

    Raises:
        ImportSourceError: the log is missing, of no known kind, damaged or without numbers.
        RunExistsError: the destination holds something.
    """
    source, destination = Path(source), Path(destination)
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise RunExistsError(f"{destination} exists and is not an empty folder: choose another path with --run")
    kind, log = read_log(source)
    names = mapped(log.series)
    with _removed_on_failure(destination):
        _write(destination, source, kind, log, names)
    steps = len(np.unique(np.concatenate([one.steps for one in log.series])))
    return ImportResult(destination, kind, names, log.notes, len(log.series), steps)


@contextlib.contextmanager
def _removed_on_failure(destination: Path) -> Iterator[None]:
    """Removes a run folder made in vain, and the folders above it that were made for it."""
    made = next((p for p in reversed((destination, *destination.absolute().parents)) if not p.exists()), None)
    try:
        yield
    except BaseException:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
        raise


def _write(destination: Path, source: Path, kind: str, log: Log, names: Mapping[str, str]) -> None:
    writer = RunWriter(destination)
    writer.meta("config", {"imported_from": source.resolve().name, "format": kind})
    writer.meta("import", {"source": source.resolve().name, "format": kind, "names": names, "series": len(log.series)})
    for note in log.notes:
        writer.event(note.kind, note.message, severity=note.severity, data=note.data)
    _write_scalars(writer, [one for one in log.series if not one.coords], names, kind)
    for one in log.series:
        if one.coords:
            _write_labelled(writer, one, names[one.name], kind)
    writer.close()
    if writer.failure is not None:
        raise ImportSourceError(
            f"{source} could not be imported ({writer.failure}): free some space or choose another path"
        )


def read_log(source: Path) -> tuple[str, Log]:
    """The kind of a log and its series as read.

    Raises:
        ImportSourceError: it is missing, of no known kind, damaged or without numbers.
    """
    if not source.exists():
        raise ImportSourceError(f"{source} does not exist: give a log file, or a folder of TensorBoard events")
    if not source.is_file() and not source.is_dir():
        raise ImportSourceError(f"{source} is neither a file nor a folder: give a log file")
    try:
        head = source.open("rb").read(_HEAD_BYTES) if source.is_file() else b""
        for known in FORMATS:
            if known.recognises(source, head):
                return known.name, _non_empty(source, known.read(source))
    except OSError as error:
        raise ImportSourceError(
            f"{source} cannot be read ({error.strerror or error}): check its permissions"
        ) from error
    if source.is_file() and not head.strip():
        raise ImportSourceError(f"{source} is empty: there is nothing to import")
    kinds = "TensorBoard event files, trainer_state.json, CSV or JSONL"
    raise ImportSourceError(f"{source} holds no log of a known kind: give {kinds}")


def _non_empty(source: Path, log: Log) -> Log:
    if not log.series:
        raise ImportSourceError(f"{source} holds no series, only steps: give a log with at least one numeric column")
    return log


def _write_scalars(writer: RunWriter, series: list[LogSeries], names: Mapping[str, str], kind: str) -> None:
    """Values of all series in the order of their steps, as a training would have written them."""
    if not series:
        return
    ids = [
        writer.series(SeriesSpec(names[one.name], dtype="float64", source=f"imported: {kind} {one.name}"))
        for one in series
    ]
    which = np.concatenate([np.full(len(one.steps), index) for index, one in zip(ids, series, strict=True)])
    steps = np.concatenate([one.steps for one in series])
    values = np.concatenate([one.values for one in series])
    order = np.lexsort((which, steps))
    for identity, step, value in zip(which[order].tolist(), steps[order].tolist(), values[order].tolist(), strict=True):
        writer.scalar(identity, step, value)


def _write_labelled(writer: RunWriter, one: LogSeries, name: str, kind: str) -> None:
    dims = tuple(one.coords)
    series = writer.series(SeriesSpec(name, dims=dims, dtype="float64", source=f"imported: {kind} {one.name}"))
    positions = [np.array(writer.positions(dim, labels), dtype=np.int32) for dim, labels in one.coords.items()]
    measured = np.ones(one.values.shape, dtype=bool) if one.measured is None else one.measured
    for step, row, known in zip(one.steps.tolist(), one.values, measured, strict=True):
        if len(dims) == 1:
            writer.vector(series, step, row[known], positions=positions[0][known])
            continue
        # Further dimensions are stored whole, in the order of the run's labels, where any label of theirs has a value.
        held = known.reshape(len(row), -1).any(axis=1)
        block = np.full((int(held.sum()), *(int(p.max()) + 1 for p in positions[1:])), np.nan)
        block[np.ix_(np.arange(len(block)), *positions[1:])] = row[held]
        writer.vector(series, step, block, positions=positions[0][held])
