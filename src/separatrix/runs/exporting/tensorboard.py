"""TensorBoard: one event file with a scalar a series, or a series and label."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from separatrix.runs.errors import MissingExtraError
from separatrix.runs.exporting.rows import Rows, rows
from separatrix.runs.run import Run


def write(run: Run, destination: Path) -> Path:
    """Write an event file into the folder; labelled series become name/label, TensorBoard keeps 32 bits a value.

    TensorBoard wants a time for each value, which a run does not keep: steps are spread evenly over the time it took.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        raise MissingExtraError("TensorBoard files need tensorboard: pip install separatrix[tensorboard]") from error
    existed = destination.exists()
    destination.mkdir(exist_ok=True)
    started, seconds_a_step, first_step = _clock(run)
    file = destination / f"events.out.tfevents.{int(started)}.{_plain(run.name)}"
    try:
        with file.open("wb") as opened:
            writer = RecordWriter(opened)
            writer.write(Event(wall_time=started, file_version="brain.Event:2").SerializeToString())
            for step, tag, value in _scalars(run):
                summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
                time = started + seconds_a_step * (step - first_step)
                writer.write(Event(wall_time=time, step=step, summary=summary).SerializeToString())
            writer.flush()
    except BaseException:
        if existed:
            file.unlink(missing_ok=True)
        else:
            shutil.rmtree(destination, ignore_errors=True)
        raise
    return destination


def _scalars(run: Run) -> Iterator[tuple[int, str, float]]:
    for part in rows(run):
        # Values beyond 32 bits become infinite, as they would if they had been logged there.
        with np.errstate(over="ignore"):
            values = part.values.astype(np.float32).tolist()
        yield from zip(part.steps.tolist(), _tags(part), values, strict=False)


def _tags(part: Rows) -> Iterator[str]:
    if not part.labels:
        return itertools.repeat(part.series)
    return ("/".join((part.series, *labels)) for labels in zip(*part.labels.values(), strict=True))


def _clock(run: Run) -> tuple[float, float, int]:
    """When the run started, seconds a step on average, and the first step."""
    segments = run.segments
    started = segments[0].started
    ended = max(segment.ended or segment.started for segment in segments)
    first = min((s.first_step for s in segments if s.first_step is not None), default=0)
    last = max((s.last_step for s in segments if s.last_step is not None), default=first)
    return started, max(0.0, ended - started) / max(1, last - first), first


def _plain(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name)[:100]
