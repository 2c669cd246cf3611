"""The writing side of a run's file: claims it, stores batches, thins it and leaves it readable."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from separatrix.runs import schema, thinning
from separatrix.runs.errors import RecordingError, RunExistsError, RunUnreadableError, SeparatrixError
from separatrix.runs.labels import Labels
from separatrix.runs.types import Status

_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "9p", "fuse.", "lustre", "gpfs", "beegfs", "drvfs", "vboxsf")
_HEARTBEAT_SECONDS = 5.0
_POINTS_AT_ONCE = 10_000
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

Statement = tuple[str, tuple[Any, ...]]
Point = tuple[int, int, float]


class Vector(NamedTuple):
    """Values over labels at one step. Rows of this segment at the step `replaced` go when it is stored."""

    series: int
    step: int
    first: int
    positions: np.ndarray | None
    values: np.ndarray
    replaced: int | None = None


def on_network_file_system(path: Path) -> bool:
    """Whether `path` lies where shared-memory WAL files are not safe."""
    try:
        mounts = Path("/proc/mounts").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    resolved = str(path.resolve())
    kind, longest = "", -1
    for line in mounts:
        _, mount_point, file_system = line.split()[:3]
        mount_point = mount_point.replace("\\040", " ")
        inside = resolved == mount_point or resolved.startswith(mount_point.rstrip("/") + "/")
        if inside and len(mount_point) >= longest:
            kind, longest = file_system, len(mount_point)
    return kind.startswith(_NETWORK_FILE_SYSTEMS)


class StorageLostError(Exception):
    """Storing has failed for good; the message says why."""


@dataclasses.dataclass
class Batch:
    """Values taken from the training thread that are not in the file yet."""

    statements: list[Statement] = dataclasses.field(default_factory=list)
    points: list[Point] = dataclasses.field(default_factory=list)
    vectors: list[Vector] = dataclasses.field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.statements or self.points or self.vectors)


@dataclasses.dataclass
class Known:
    """What earlier segments have declared: ids and specs of series, positions of labels."""

    series: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    dims: dict[int, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    dtypes: dict[int, np.dtype[Any]] = dataclasses.field(default_factory=dict)
    labels: dict[str, Labels] = dataclasses.field(default_factory=dict)


class Database:
    """The file of a run, open for its one writer, who holds the run's lock.

    Raises:
        RunExistsError: the file exists and is not to be resumed.
        RunUnreadableError: the file to be resumed is no run of this format.
        RecordingError: the file cannot be made or written.
    """

    def __init__(self, path: Path, run: Path, *, resume: bool) -> None:
        self.path = path
        self.known = Known()
        self.previous_last_step: int | None = None
        self.first_step: int | None = None
        self.last_step: int | None = None
        self._heartbeat = 0.0
        self._thin_above = 0
        existed = path.exists() or path.is_symlink()
        if existed and not resume:
            raise RunExistsError(f"{run} already holds a run: choose another path, or resume it")
        if existed:
            refuse_odd_files(path, run)
        try:
            self._connect(existed, run)
        except BaseException as error:
            if hasattr(self, "connection"):
                self.connection.close()
            if not existed:
                for name in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal"))):
                    name.unlink(missing_ok=True)
            if isinstance(error, SeparatrixError) or not isinstance(error, sqlite3.Error | OSError | ValueError):
                raise
            raise _unusable(existed, run, error) from error

    def _connect(self, existed: bool, run: Path) -> None:
        self.connection = sqlite3.connect(self.path, check_same_thread=False, timeout=5.0, isolation_level=None)
        execute = self.connection.execute
        execute("PRAGMA trusted_schema=OFF")
        if existed:
            schema.check(self.connection, run)
        execute(f"PRAGMA journal_mode={'DELETE' if on_network_file_system(self.path) else 'WAL'}")
        execute("PRAGMA synchronous=NORMAL")
        execute("PRAGMA cache_size=-16000")
        execute("PRAGMA secure_delete=OFF")
        execute("PRAGMA temp_store=MEMORY")
        if not existed:
            schema.create(self.connection)
        self._take_up()
        self._identity = self._identified()

    def _take_up(self) -> None:
        execute, known = self.connection.execute, self.known
        for series, name, dims, labels, dtype in execute("SELECT id, name, dims, labels, dtype FROM series"):
            known.series[name, labels] = series
            known.dims[series] = tuple(json.loads(dims))
            known.dtypes[series] = np.dtype(dtype).newbyteorder("<")
        for dim, label in execute("SELECT dim, label FROM labels ORDER BY dim, position"):
            known.labels.setdefault(dim, Labels()).append(label)
        self._rows_before = execute("SELECT ifnull(max(id), 0) FROM vectors").fetchone()[0]
        previous, self.previous_last_step = execute("SELECT max(id), max(last_step) FROM segments").fetchone()
        self.segment = 0 if previous is None else int(previous) + 1
        now = time.time()
        row = (self.segment, str(Status.RUNNING), now, now, socket.gethostname(), os.getpid())
        with schema.transaction(self.connection):
            execute(
                "INSERT INTO segments(id, status, started, heartbeat, hostname, process_id) VALUES(?,?,?,?,?,?)", row
            )

    def _identified(self) -> tuple[int, int]:
        status = os.stat(self.path)
        return status.st_dev, status.st_ino

    def store(self, batch: Batch, refused: Callable[[int, str], None]) -> bool:
        """Put a batch into the file; False if another program holds the file for the moment.

        `refused` is told the series and the reason where values do not fit it; these are left out.

        Raises:
            StorageLostError: nothing can be stored any more.
        """
        if not batch and time.time() - self._heartbeat < _HEARTBEAT_SECONDS:
            return True
        try:
            if self._identified() != self._identity:
                raise StorageLostError("its file was replaced")
            with schema.transaction(self.connection):
                self._insert(batch, refused)
        except FileNotFoundError as error:
            raise StorageLostError("its folder or file is gone") from error
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY:
                return False
            raise StorageLostError(str(error)) from error
        except OSError as error:
            raise StorageLostError(error.strerror or str(error)) from error
        return True

    def _insert(self, batch: Batch, refused: Callable[[int, str], None]) -> None:
        execute = self.connection.execute
        for statement in batch.statements:
            execute(*statement)
        for start in range(0, len(batch.points), _POINTS_AT_ONCE):
            self._insert_points(batch.points[start : start + _POINTS_AT_ONCE], refused)
        for vector in batch.vectors:
            try:
                row = self._packed(vector.series, vector.step, vector.first, vector.positions, vector.values)
            except (TypeError, ValueError, OverflowError, LookupError) as error:
                refused(vector.series, str(error))
                continue
            if vector.replaced is not None:
                where = (vector.series, vector.replaced, self._rows_before)
                execute("DELETE FROM vectors WHERE series=? AND step=? AND id>?", where)
            execute("INSERT INTO vectors(series, step, first, positions, shape, data) VALUES(?,?,?,?,?,?)", row)
            self._reached(row[1], row[1])
        self._heartbeat = time.time()
        now = (self.first_step, self.last_step, self._heartbeat, self.segment)
        execute("UPDATE segments SET first_step=?, last_step=?, heartbeat=? WHERE id=?", now)

    def _reached(self, first: int, last: int) -> None:
        self.first_step = first if self.first_step is None else self.first_step
        self.last_step = last if self.last_step is None else max(self.last_step, last)

    def _insert_points(self, points: Sequence[Point], refused: Callable[[int, str], None]) -> None:
        try:
            series, steps, values = _columns(points)
        except (TypeError, ValueError, OverflowError):
            fitting = []
            for point in points:
                try:
                    _columns([point])
                    fitting.append(point)
                except (TypeError, ValueError, OverflowError) as error:
                    refused(point[0], str(error))
            if not fitting:
                return
            series, steps, values = _columns(fitting)
        self._reached(int(steps[0]), int(steps.max()))
        order = np.argsort(series, kind="stable")
        bounds = np.flatnonzero(np.diff(series[order])) + 1
        for own in np.split(order, bounds):
            if self.known.dims.get(int(series[own[0]])) != ():
                refused(int(series[own[0]]), "single values for a series over labels")
                continue
            row = schema.pack_points(int(series[own[0]]), steps[own], values[own])
            self.connection.execute("INSERT INTO points(series, first, stride, steps, data) VALUES(?,?,?,?,?)", row)

    def _packed(
        self, series: int, step: int, first: int, positions: np.ndarray | None, values: np.ndarray
    ) -> tuple[Any, ...]:
        data = np.asarray(values, dtype=self.known.dtypes[series], order="C")
        dims = self.known.dims[series]
        if data.ndim != len(dims):
            raise ValueError(f"an array of {data.ndim} dimensions, not ({', '.join(dims)})")
        sizes = [len(self.known.labels.get(dim, ())) for dim in dims]
        packed = None
        if positions is None:
            fits = 0 <= first <= sizes[0] - len(data)
        else:
            where = np.asarray(positions)
            fits = where.shape == (len(data),) and bool(np.all((where >= 0) & (where < sizes[0])))
            packed = where.astype("<i4").tobytes()
        if not fits or any(n > size for n, size in zip(data.shape[1:], sizes[1:], strict=True)):
            raise ValueError(f"an array of shape {data.shape} reaches beyond the labels along ({', '.join(dims)})")
        shape = None if data.ndim == 1 else json.dumps(data.shape)
        return series, _step(step), int(first), packed, shape, data.tobytes()

    def oversize(self, max_bytes: int) -> bool:
        """Whether the file has outgrown `max_bytes` and thinning may help."""
        return thinning.size_in_bytes(self.connection) > max(max_bytes, self._thin_above)

    def thinned(self, removed: int, max_bytes: int) -> None:
        """Note the end of a thinning; if hardly anything could go, the next waits until the file grew by a tenth."""
        size = thinning.size_in_bytes(self.connection)
        self._thin_above = int(1.1 * size) if removed == 0 or size > 0.9 * max_bytes else 0

    def finish(self, status: Status, traceback: str | None, lost: Statement | None) -> None:
        """Note how the segment ended, give what is in the WAL to the file, and close it.

        `lost` is the event to add if recording ended early. Problems are left aside: the run reads as killed then.
        """
        row = (str(status), time.time(), time.time(), traceback, self.first_step, self.last_step, self.segment)
        note = "UPDATE segments SET status=?, ended=?, heartbeat=?, traceback=?, first_step=?, last_step=? WHERE id=?"
        with contextlib.suppress(sqlite3.Error), schema.transaction(self.connection):
            self.connection.execute(note, row)
            if lost is not None:
                self.connection.execute(*lost)
        with contextlib.suppress(sqlite3.Error):
            self.connection.execute("PRAGMA busy_timeout=200")
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            # Leaving WAL makes a finished run one plain file that can be read where nothing may be written.
            self.connection.execute("PRAGMA journal_mode=DELETE")
        with contextlib.suppress(sqlite3.Error):
            self.connection.close()


def refuse_odd_files(database: Path, run: object) -> None:
    """Raise RunUnreadableError where something other than plain files stands beside or in place of a run's file."""
    resolved = Path(os.path.realpath(database))
    for name in (resolved, *(resolved.with_name(resolved.name + end) for end in ("-wal", "-shm", "-journal"))):
        if os.path.lexists(name) and (name.is_symlink() or not name.is_file()):
            raise RunUnreadableError(f"{run} holds {name.name}, which is not a plain file: do not trust it")
    journal = resolved.with_name(resolved.name + "-journal")
    if journal.exists() and journal.stat().st_size >= len(_JOURNAL_MAGIC):
        with journal.open("rb") as file:
            file.seek(-len(_JOURNAL_MAGIC), os.SEEK_END)
            # A journal may name a second file, which rolling back would delete; our writer never makes such a one.
            if file.read() == _JOURNAL_MAGIC:
                raise RunUnreadableError(f"{run} holds a journal that was not written by Separatrix: do not trust it")


_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")


def _columns(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    series, steps, values = zip(*points, strict=True)
    known, counted = np.asarray(series), np.asarray(steps)
    if counted.dtype.kind not in "iu":
        raise TypeError(f"a step that is no integer: {steps[0]!r:.60}")
    return known, counted.astype(np.int64), np.array([float(value) for value in values], dtype=np.float64)


def _step(step: Any) -> int:
    number = int(step)
    if number != step or abs(number) >= 2**62:
        raise ValueError(f"a step that is no integer: {step!r:.60}")
    return number


def _unusable(existed: bool, run: Path, error: Exception) -> SeparatrixError:
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    if existed and isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return RunUnreadableError(f"{run} is damaged ({reason}): it cannot be resumed, choose another path")
    return RecordingError(f"{run} cannot be written ({reason}): choose another path or make room and permission")
