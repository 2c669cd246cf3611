"""TensorBoard event files: one file, or a folder with event files in it and below it."""

from __future__ import annotations

import array
import os
from pathlib import Path

import numpy as np

from separatrix.runs.errors import ImportSourceError
from separatrix.runs.importing import tfevents
from separatrix.runs.importing.log import Log, LogFormat, LogSeries, Note, without_duplicates

_MARK = "tfevents"
_LARGEST_STEP = 2**53
_SHORT_RECORD = 4096


def _recognises(path: Path, head: bytes) -> bool:
    if path.is_dir():
        return bool(_event_files(path))
    return _MARK in path.name or tfevents.starts_like_event_file(head)


def _event_files(folder: Path) -> list[Path]:
    found = [Path(name) / file for name, _, files in os.walk(folder) for file in files if _MARK in file]
    return sorted(path for path in found if path.is_file())


class _Gathered:
    """Values of each tag in the order of reading."""

    def __init__(self) -> None:
        self.steps: dict[str, array.array[int]] = {}
        self.values: dict[str, array.array[float]] = {}
        self.notes: list[Note] = []

    def add(self, name: str, step: int, value: float) -> None:
        self.steps.setdefault(name, array.array("q")).append(step)
        self.values.setdefault(name, array.array("d")).append(value)


def _read(path: Path) -> Log:
    files = _event_files(path) if path.is_dir() else [path]
    gathered = _Gathered()
    for file in files:
        folder = file.parent.relative_to(path).as_posix() if path.is_dir() else "."
        _read_file(file, "" if folder == "." else folder, gathered)
    if not gathered.steps:
        reason = next((note.message for note in gathered.notes), "it holds no scalars")
        raise ImportSourceError(f"{path} holds no number ({reason}): give the folder of a run that logged scalars")
    series: list[LogSeries] = []
    notes = gathered.notes
    for name, steps in gathered.steps.items():
        one, note = without_duplicates(name, np.array(steps, dtype=np.int64), np.array(gathered.values[name]))
        series.append(one)
        notes += [note] if note else []
    return Log(tuple(series), tuple(notes))


def _read_file(file: Path, folder: str, gathered: _Gathered) -> None:
    impossible = 0
    with file.open("rb") as opened:
        try:
            for data, checksum in tfevents.records(opened, file.stat().st_size):
                found = tfevents.scalars(data)
                # Images and graphs are long, and nothing of them is kept.
                if (found or len(data) <= _SHORT_RECORD) and tfevents.masked_crc(data) != checksum:
                    raise tfevents.DamagedRecordError("the checksum of a record is wrong")
                for step, tag, value in found:
                    if abs(step) > _LARGEST_STEP:
                        impossible += 1
                    else:
                        gathered.add(_name(folder, tag), step, value)
        except tfevents.DamagedRecordError as error:
            message = f"{file.name} is damaged from byte {opened.tell()} on ({error}): what stands before was read"
            gathered.notes.append(Note("truncated-log", message, "warning", {"file": file.name}))
    if impossible:
        message = f"{file.name} has {impossible} values at impossible steps: they are left out"
        gathered.notes.append(Note("row-without-step", message, "warning", {"file": file.name, "values": impossible}))


def _name(folder: str, tag: str) -> str:
    """The tag below its folder; `add_scalars("loss", {"val": ...})` writes the tag loss into the folder loss_val."""
    if not folder:
        return tag
    main = tag.replace("/", "_") + "_"
    if folder.startswith(main):
        return f"{tag}/{folder.removeprefix(main)}"
    return f"{folder}/{tag}"


FORMAT = LogFormat("tensorboard", _recognises, _read)
