"""Writes a run: values are handed over on the training thread, a background thread stores them every half second."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from separatrix.runs import forking, schema, thinning
from separatrix.runs.database import Batch, Database, Point, Statement, StorageLostError, Vector
from separatrix.runs.errors import RecordingError, RunExistsError, RunLockedError, RunUnreadableError
from separatrix.runs.labels import Labels
from separatrix.runs.locking import RunLock
from separatrix.runs.redaction import Redactor
from separatrix.runs.types import SeriesSpec, Severity, Status

DATABASE_NAME = "run.sqlite"
LOCK_NAME = "run.lock"
DEFAULT_MAX_BYTES = 1_000_000_000
_FLUSH_SECONDS = 0.5
_FORKED = "forked"


class RunWriter:
    """The one writer of a run folder.

    `scalar`, `vector`, `event` and `meta` may be called from any thread, cost about a microsecond and never raise for
    reasons of storage. Values that do not fit their series are left out, with one event. When storing fails (full
    disk, folder gone) recording ends, `failure` holds the reason and `on_failure` is called once, from the thread that
    stores. In a forked child the writer is dead: it takes values and forgets them.

    Raises:
        RunExistsError: the path holds something and `resume` is false.
        RunLockedError: another process writes the run.
        RunUnreadableError: the path to be resumed holds no run of this format.
        RecordingError: the run cannot be made there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        resume: bool = False,
        adopt: bool = False,
        rank: int = 0,
        redactor: Redactor | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        self.path = Path(path)
        self.failure: str | None = None
        self._redactor = redactor or Redactor()
        self._on_failure = on_failure
        self._max_bytes = max_bytes
        self._points: collections.deque[Point] = collections.deque()
        self.point = self._points.append
        """`scalar` of one tuple, without a call of Python's."""
        self._vectors: collections.deque[Vector] = collections.deque()
        self._statements: collections.deque[Statement] = collections.deque()
        self._batch = Batch()
        self._sources: list[Callable[[], None]] = []
        self._refused: set[int] = set()
        self._given: dict[tuple[Any, ...], int] = {}
        self._closed = False
        self._file = self.path / DATABASE_NAME if rank == 0 else self.path / "ranks" / f"{rank}.sqlite"
        made = self._claim(rank, allow_content=resume or adopt)
        try:
            if resume and not adopt:
                self._require_run()
            self._database = Database(self._file, self.path, resume=resume)
        except BaseException:
            self._lock.release()
            self._tidy(made)
            raise
        self._known = self._database.known
        self._declaring = threading.Lock()
        self._gap_unsaid = self._database.previous_last_step is not None
        self._wake = threading.Event()
        self.storing = threading.RLock()
        """Held while a batch is stored; who forks holds it, so that no child inherits a mutex of the database."""
        forking.guard(self)
        self._thread = threading.Thread(target=self._work, name="separatrix-writer", daemon=True)
        # While the interpreter ends no thread can be started; close() then stores everything itself.
        with contextlib.suppress(RuntimeError):
            self._thread.start()

    def series(self, spec: SeriesSpec) -> int:
        """The id under which values of this series are handed over; the same name and labels give the same id.

        Raises:
            ValueError: a series of this name has other dimensions, or the number type cannot be stored.
        """
        given = (spec.name, tuple(spec.dims), tuple(sorted(spec.labels.items())))
        if given in self._given:
            return self._given[given]
        labels = self._text(json.dumps(dict(given[2])))
        name, dtype = self._text(spec.name), np.dtype(spec.dtype)
        if dtype.name not in schema.DTYPES:
            raise ValueError(f"series {name!r} has dtype {dtype.name!r}; allowed: {', '.join(sorted(schema.DTYPES))}")
        with self._declaring:
            for (other, _), series in self._known.series.items():
                if other == name and self._known.dims[series] != tuple(spec.dims):
                    raise ValueError(
                        f"series {name!r} has dimensions {self._known.dims[series]}, not {tuple(spec.dims)}:"
                        " use another name"
                    )
            if (name, labels) in self._known.series:
                self._given[given] = self._known.series[name, labels]
                return self._given[given]
            series = len(self._known.series) + 1
            self._given[given] = series
            self._known.dims[series] = tuple(spec.dims)
            self._known.dtypes[series] = dtype.newbyteorder("<")
            self._known.series[name, labels] = series
            words = (spec.units, dtype.name, spec.description, spec.source)
            row = (series, name, json.dumps(spec.dims), labels, *map(self._text, words))
            self._statements.append(("INSERT INTO series VALUES(?,?,?,?,?,?,?,?)", row))
        return series

    def positions(self, dim: str, labels: Sequence[str]) -> list[int]:
        """Positions of `labels` along `dim`, new labels being added at the end."""
        with self._declaring:
            found, statements = self._known.labels.setdefault(dim, Labels()).placed(dim, labels, self._text)
            self._statements.extend(statements)
        return found

    def number_labels(self, dim: str, count: int) -> bool:
        """Make "0" to `count - 1` the labels at these positions along `dim`, in one statement however many there are.

        False, and nothing done, if other labels stand there already.
        """
        with self._declaring:
            statements = self._known.labels.setdefault(dim, Labels()).number(dim, count)
            if statements is not None:
                self._statements.extend(statements)
        return statements is not None

    def scalar(self, series: int, step: int, value: float) -> None:
        """Hand over one value of a scalar series."""
        self._points.append((series, step, value))

    def vector(
        self, series: int, step: int, values: np.ndarray, first: int = 0, positions: np.ndarray | None = None
    ) -> None:
        """Hand over values over labels at one step: those at `positions`, or a contiguous piece from `first` on.

        Labels left out were not measured at this step. The array must not be changed afterwards.
        """
        self._vectors.append(Vector(series, step, first, positions, values))

    def replace(
        self,
        series: int,
        replaced: int,
        step: int,
        pieces: Sequence[tuple[int, np.ndarray | None, np.ndarray]],
    ) -> None:
        """Hand over values at `step`, pieces of (first, positions, values), in place of this segment's at `replaced`.

        Both happen in one transaction, so that at any moment a run holds the one or the other.
        """
        rows = [Vector(series, step, *piece) for piece in pieces]
        # In one go, so that all of them are taken into the same transaction.
        self._vectors.extend([row._replace(replaced=None if index else replaced) for index, row in enumerate(rows)])

    def gather(self, source: Callable[[], None]) -> None:
        """Call `source`, on the thread that stores, before each time of storing: it hands over what it has gathered."""
        self._sources.append(source)

    def event(
        self,
        kind: str,
        message: str,
        *,
        step: int | None = None,
        severity: Severity = "info",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Hand over something that happened once."""
        self._statements.append(self._event(kind, message, step, severity, data))

    def meta(self, key: str, value: Any) -> None:
        """Set a fact about the run, replacing an earlier one of the same key."""
        row = (self._text(key), json.dumps(self._redactor.plain(value)))
        self._statements.append(("INSERT OR REPLACE INTO meta VALUES(?,?)", row))

    def flush(self) -> None:
        """Store what was handed over so far; returns when it is on its way to the disk."""
        if self.failure == _FORKED:
            return
        with self.storing:
            self._store()

    def close(self, status: Status = Status.FINISHED, traceback: str | None = None) -> None:
        """Store the rest, note how the run ended and free the lock. Closing twice is closing once."""
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        with self.storing:
            self._store(last=True)
            lost = None
            if self.failure is not None:
                lost = self._event("recording-ended", self.failure, self._database.last_step, "error", None)
            self._database.finish(status, None if traceback is None else self._text(traceback), lost)
            self._forget()
        forking.forget(self)
        self._lock.release()

    def abandon(self) -> None:
        """In a forked child: forget the run without touching its file, which belongs to the parent."""
        self._closed = True
        self.failure = _FORKED
        # Closing the inherited connection would wait for a mutex that the parent's thread may hold, or meddle with the
        # parent's file: it must outlive every reference to it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._database.connection))
        self._batch = Batch()
        self._forget()
        self._lock.release()

    @property
    def segment(self) -> int:
        """Index of the piece being written: 0, or more in a resumed run."""
        return self._database.segment

    def last_recorded_step(self) -> int | None:
        """The last step stored by earlier segments."""
        return self._database.previous_last_step

    def _claim(self, rank: int, allow_content: bool) -> list[Path]:
        """Make the folder, take the lock; the folders made."""
        if self.path.exists() and not self.path.is_dir():
            raise RunExistsError(f"{self.path} is a file: give a folder that does not exist yet")
        try:
            if rank == 0 and not allow_content and self.path.is_dir() and any(self.path.iterdir()):
                raise RunExistsError(
                    f"{self.path} exists and is not empty: choose another path, or add --resume (resume=True) to"
                    " continue the run in it"
                )
            made = [folder for folder in (self._file.parent, *self._file.parent.parents) if not folder.exists()]
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._lock = RunLock(self.path / LOCK_NAME if rank == 0 else self._file.with_suffix(".lock"))
            held = self._lock.acquire()
        except OSError as error:
            raise RecordingError(
                f"{self.path} cannot be written ({error.strerror}): choose another path or make room and permission"
            ) from error
        if not held:
            raise RunLockedError(f"{self.path} is being written by another process: wait for it or choose another path")
        return made

    def _require_run(self) -> None:
        others = (item for item in self.path.iterdir() if item.name not in (LOCK_NAME, "ranks"))
        if not self._file.exists() and any(others):
            raise RunUnreadableError(f"{self.path} holds no run to resume: leave out --resume or give another path")

    def _tidy(self, made: list[Path]) -> None:
        """Take away what a failed beginning has left, so that the same path can be tried again."""
        with contextlib.suppress(OSError):
            if not self._file.exists():
                self._lock.path.unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()

    def _text(self, text: str) -> str:
        """Without secrets, and without the halves of surrogate pairs that undecodable file names bring."""
        return self._redactor.text(text).encode("utf-8", "backslashreplace").decode("utf-8")

    def _event(
        self, kind: str, message: str, step: int | None, severity: Severity, data: Mapping[str, Any] | None
    ) -> Statement:
        where = None if step is None else int(step)
        row = (
            self._text(kind),
            severity,
            where,
            time.time(),
            self._text(message),
            json.dumps(self._redactor.plain(data or {})),
        )
        return "INSERT INTO events(kind, severity, step, time, message, data) VALUES(?,?,?,?,?,?)", row

    def _work(self) -> None:
        while not self._closed:
            self._wake.wait(_FLUSH_SECONDS)
            self.flush()

    def _take(self) -> None:
        """Move what was handed over into the batch, which is kept until it is in the file."""
        for source in self._sources:
            source()
        # Values first: their series and labels were queued before them and so are among the statements taken after.
        points, vectors = len(self._points), len(self._vectors)
        batch = self._batch
        batch.statements += [self._statements.popleft() for _ in range(len(self._statements))]
        batch.points += [self._points.popleft() for _ in range(points)]
        batch.vectors += [self._vectors.popleft() for _ in range(vectors)]

    def _store(self, last: bool = False) -> None:
        if self.failure is not None:
            return
        try:
            self._take()
            # Should another program keep the file busy, the batch waits for the next time; at the end there is none.
            if not self._store_batch() and last:
                raise StorageLostError("another program keeps its file busy")
            self._say_gap()
            if not last:
                self._thin_if_large()
        except StorageLostError as error:
            self._fail(f"the run {self.path} cannot be written any more: {error}")
        except Exception as error:
            self._fail(f"the run {self.path} cannot be written any more ({type(error).__name__}: {error})")

    def _store_batch(self) -> bool:
        stored = self._database.store(self._batch, self._refuse)
        if stored:
            self._batch = Batch()
        return stored

    def _refuse(self, series: int, reason: str) -> None:
        if series in self._refused:
            return
        self._refused.add(series)
        names = {known: name for (name, _), known in self._known.series.items()}
        message = f"values of {names.get(series, series)} do not fit it and are left out: {reason}"
        self.event("unseen", message, severity="warning", data={"series": [names.get(series, str(series))]})

    def _fail(self, reason: str) -> None:
        self.failure = " ".join(reason.split())
        self._batch = Batch()
        self._forget()
        if self._on_failure is not None:
            with contextlib.suppress(Exception):
                self._on_failure(self.failure)

    def _forget(self) -> None:
        """From now on take values at no cost of memory."""
        self._points = collections.deque(maxlen=0)
        self.point = self._points.append
        self._vectors = collections.deque(maxlen=0)
        self._sources = []
        self._statements = collections.deque(maxlen=0)

    def _say_gap(self) -> None:
        previous, first = self._database.previous_last_step, self._database.first_step
        if not self._gap_unsaid or previous is None or first is None:
            return
        self._gap_unsaid = False
        overlap, gap = max(0, previous - first + 1), max(0, first - previous - 1)
        said = f"{overlap} steps overlap" if overlap else f"{gap} steps are missing" if gap else "no step is missing"
        self._statements.append(
            self._event(
                "resumed",
                f"resumed at step {first} after step {previous}: {said}",
                first,
                "info",
                {"previous_last_step": previous, "first_step": first, "overlap": overlap, "gap": gap},
            )
        )
        self._take()
        self._store_batch()

    def _thin_if_large(self) -> None:
        if not self._database.oversize(self._max_bytes):
            return
        removed = 0
        for count in thinning.thin(self._database.connection):
            removed += count
            self._take()
            self._store_batch()
        self._database.thinned(removed, self._max_bytes)
        if removed:
            self.event(
                "thinned",
                f"the run reached {self._max_bytes} bytes: {removed} of its densest values were dropped, extremes kept",
                step=self._database.last_step,
                data={"max_bytes": self._max_bytes, "removed": removed},
            )
