"""Opens run files safely: never writes, never executes anything a file contains, sees what a live writer adds."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import copyfile
from urllib.parse import quote

from separatrix.runs import schema
from separatrix.runs.database import refuse_odd_files
from separatrix.runs.errors import RunUnreadableError, SeparatrixError
from separatrix.runs.locking import is_locked

HEARTBEAT_PATIENCE = 30.0
_LARGEST_VALUE = 1 << 27
_GIVE = "give the folder that `watch` or `record` wrote"


@contextlib.contextmanager
def readable(path: object) -> Iterator[None]:
    """Turn what a damaged file makes sqlite, json or numpy raise into one clear line."""
    try:
        yield
    except SeparatrixError:
        raise
    except (
        *(sqlite3.Error, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError),
        *(MemoryError, OSError),
    ) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise RunUnreadableError(f"{path} is damaged ({reason}): restore it from a copy or record it again") from error


class Source:
    """A run file for reading. Readers take turns; while nobody writes, the connection is kept from one to the next.

    `generation` grows whenever what was read before may be out of date.

    Raises:
        RunUnreadableError: the file is missing, not a database, foreign, damaged or altered.
    """

    def __init__(self, database: Path, lock: Path, path: Path) -> None:
        self.database = database
        self.lock = lock
        self.path = path
        self.generation = 0
        self._turn = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[object, ...] = ()
        self._within = 0
        with self.snapshot():
            pass

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection within one read transaction, so that several queries see the same state of the run."""
        with self._turn, readable(self.path):
            if self._connection is None or (self._within == 0 and self._identity != self._identified()):
                self._reopen()
            connection = self._connection
            assert connection is not None
            self._within += 1
            try:
                if self._within == 1:
                    connection.execute("BEGIN")
                yield connection
            finally:
                self._within -= 1
                if self._within == 0:
                    with contextlib.suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                    # Kept open, it would prevent a live writer from leaving WAL at its end.
                    if self._identity == ():
                        self.close()

    def held(self) -> bool | None:
        """Whether a live process on this machine writes the run; None where that cannot be told."""
        return is_locked(self.lock)

    def connect(self) -> sqlite3.Connection:
        """A further connection, for the caller to close."""
        return _connect(self.database, self.path, live=self._live())

    def close(self) -> None:
        """Close the file; it is opened again when needed."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _reopen(self) -> None:
        self.close()
        live = self._live()
        # Taken before connecting: a change in between is then noticed at the next reading.
        self._identity = () if live else self._identified()
        self._connection = _connect(self.database, self.path, live=live)
        self.generation += 1

    def _live(self) -> bool:
        held = self.held()
        if held is not None:
            return held
        return any(time.time() - mtime / 1e9 < HEARTBEAT_PATIENCE for *_, mtime in self._files())

    def _files(self) -> list[tuple[int, int, int]]:
        found = []
        for end in ("", "-wal", "-journal"):
            with contextlib.suppress(OSError):
                status = os.stat(f"{self.database}{end}")
                found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        return found

    def _identified(self) -> tuple[object, ...]:
        return tuple(self._files())


def _connect(database: Path, path: Path, *, live: bool) -> sqlite3.Connection:
    if not database.is_file():
        if not os.path.lexists(path):
            raise RunUnreadableError(f"{path} does not exist: give the folder of a run")
        raise RunUnreadableError(f"{path} holds no {database.name}: {_GIVE}")
    refuse_odd_files(database, path)
    if not os.access(database, os.R_OK):
        raise RunUnreadableError(f"{path} cannot be read (Permission denied): check its permissions")
    if database.stat().st_size == 0 and not live:
        raise RunUnreadableError(f"{path} is not a run: its {database.name} is empty; {_GIVE}")
    with readable(path):
        try:
            return _checked(database, path, live)
        except sqlite3.DatabaseError as error:
            if live and error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                # Too young to be called dead, but in a folder that no writer can write.
                return _checked(database, path, live=False)
            if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
                reason = f"{path} is not a run: its {database.name} is not a database; {_GIVE}"
                raise RunUnreadableError(reason) from error
            raise


def _checked(database: Path, path: Path, live: bool) -> sqlite3.Connection:
    folder: tempfile.TemporaryDirectory[str] | None = None
    real = Path(os.path.realpath(database))
    options = "mode=ro"
    if not live and _filled(f"{real}-journal"):
        # Killed where no WAL was used: sqlite takes back the half-written batch, in a copy.
        folder = tempfile.TemporaryDirectory(prefix="separatrix-")
        copy = Path(folder.name) / real.name
        copyfile(real, copy)
        copyfile(f"{real}-journal", f"{copy}-journal")
        real, options = copy, "mode=rw"
    elif not live and os.name == "posix" and _filled(f"{real}-wal"):
        # Killed: with no lock and no shared memory the WAL is read without a trace, even where nothing may be written.
        options = "mode=ro&vfs=unix-none"
    elif not live:
        options = "mode=ro&immutable=1"
    address = f"file:{quote(os.fsencode(real))}?{options}"
    connection = sqlite3.connect(address, uri=True, check_same_thread=False, timeout=5.0, isolation_level=None)
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_VALUE)
        if "unix-none" in options:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        schema.check(connection, path)
    except BaseException:
        connection.close()
        raise
    finally:
        # The file stays open, its name is no longer needed.
        if folder is not None:
            folder.cleanup()
    return connection


def _filled(name: str) -> bool:
    return os.path.exists(name) and os.path.getsize(name) > 0
