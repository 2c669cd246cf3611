"""The tables of a run file, the checks that a file opened holds exactly these, and how scalars are packed."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator

import numpy as np

from separatrix.runs.errors import RunUnreadableError

APPLICATION_ID = 0x53505458  # "SPTX"
SCHEMA_VERSION = 1

DTYPES = frozenset(
    ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
)
"""Names of the number types that a series may be stored in."""

TABLES: dict[str, str] = {
    "meta": "CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "segments": (
        "CREATE TABLE segments(id INTEGER PRIMARY KEY, status TEXT NOT NULL, started REAL NOT NULL, ended REAL,"
        " first_step INTEGER, last_step INTEGER, heartbeat REAL NOT NULL, hostname TEXT NOT NULL,"
        " process_id INTEGER NOT NULL, traceback TEXT)"
    ),
    "series": (
        "CREATE TABLE series(id INTEGER PRIMARY KEY, name TEXT NOT NULL, dims TEXT NOT NULL, labels TEXT NOT NULL,"
        " units TEXT NOT NULL, dtype TEXT NOT NULL, description TEXT NOT NULL, source TEXT NOT NULL,"
        " UNIQUE(name, labels))"
    ),
    "labels": (
        "CREATE TABLE labels(dim TEXT NOT NULL, position INTEGER NOT NULL, label TEXT NOT NULL,"
        " PRIMARY KEY(dim, position)) WITHOUT ROWID"
    ),
    "points": (
        "CREATE TABLE points(id INTEGER PRIMARY KEY, series INTEGER NOT NULL, first INTEGER NOT NULL,"
        " stride INTEGER NOT NULL, steps BLOB, data BLOB NOT NULL)"
    ),
    "points_by_series": "CREATE INDEX points_by_series ON points(series)",
    "vectors": (
        "CREATE TABLE vectors(id INTEGER PRIMARY KEY, series INTEGER NOT NULL, step INTEGER NOT NULL,"
        " first INTEGER NOT NULL, positions BLOB, shape TEXT, data BLOB NOT NULL)"
    ),
    "vectors_by_series": "CREATE INDEX vectors_by_series ON vectors(series, step)",
    "events": (
        "CREATE TABLE events(id INTEGER PRIMARY KEY, kind TEXT NOT NULL, severity TEXT NOT NULL, step INTEGER,"
        " time REAL NOT NULL, message TEXT NOT NULL, data TEXT NOT NULL)"
    ),
}
"""Name of each table or index and the statement that makes it."""


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, on a connection opened with `isolation_level=None`."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # Some failures (a full disk among them) have rolled back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def create(connection: sqlite3.Connection) -> None:
    """Make the tables of an empty run file and mark it as ours."""
    with transaction(connection):
        for statement in TABLES.values():
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def pack_points(series: int, steps: np.ndarray, values: np.ndarray) -> tuple[int, int, int, bytes | None, bytes]:
    """A row of `points` without its id: evenly spaced steps are kept as first and stride, others as a blob."""
    strides = np.diff(steps)
    stride = int(strides[0]) if len(strides) else 0
    even = bool(np.all(strides == stride))
    packed = None if even else steps.astype("<i8").tobytes()
    return series, int(steps[0]), stride if even else 0, packed, values.astype("<f8").tobytes()


def unpack_points(rows: list[tuple[int, int, bytes | None, bytes]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of rows (first, stride, steps, data) of `points`, joined in their order.

    Raises:
        ValueError: a row does not fit together.
        TypeError: a column has another type than the schema says.
    """
    values = np.frombuffer(b"".join([row[3] for row in rows]), dtype="<f8").astype(np.float64)
    counts = np.array([len(row[3]) for row in rows], dtype=np.int64) // 8
    first, stride = (np.array([row[column] for row in rows]) for column in (0, 1))
    if rows and not (first.dtype == stride.dtype == np.int64):
        raise TypeError("steps that are no integers")
    if counts.sum() != len(values) or np.any(counts == 0) or any(len(row[3]) % 8 for row in rows):
        raise ValueError("a stretch of values is cut off")
    if np.any(np.abs(first.astype(float)) + np.abs(stride.astype(float)) * counts > 2.0**62):
        raise ValueError("steps beyond any training")
    offsets = np.cumsum(counts) - counts
    within = np.arange(len(values)) - np.repeat(offsets, counts)
    steps = np.repeat(first, counts) + np.repeat(stride, counts) * within
    for row, offset, count in zip(rows, offsets, counts, strict=True):
        if row[2] is not None:
            own = np.frombuffer(row[2], dtype="<i8")
            if len(own) != count:
                raise ValueError(f"{len(own)} steps for {count} values")
            steps[offset : offset + count] = own
    return steps.astype(np.int64), values


def _squeezed(statement: str) -> str:
    return re.sub(r"\s+", " ", statement).strip()


def check(connection: sqlite3.Connection, path: object) -> None:
    """Raise RunUnreadableError unless the file holds exactly our schema: no views, triggers or generated columns."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION_ID:
        raise RunUnreadableError(
            f"{path} is a database but not a run of Separatrix: give the folder that `watch` or `record` wrote"
        )
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        newer = "update separatrix" if version > SCHEMA_VERSION else "record it again"
        raise RunUnreadableError(f"{path} has run format {version}, this version reads {SCHEMA_VERSION}: {newer}")
    found: set[str] = set()
    for kind, name, statement in connection.execute("SELECT type, name, sql FROM sqlite_master LIMIT 100"):
        if statement is None and str(name).startswith("sqlite_autoindex_"):
            continue
        expected = TABLES.get(name)
        if expected is None or kind not in ("table", "index") or _squeezed(str(statement)) != _squeezed(expected):
            raise RunUnreadableError(
                f"{path} holds the unexpected {str(kind)[:20]} {str(name)[:60]!r}: it was not written by Separatrix,"
                " or was altered; do not trust it"
            )
        found.add(name)
    missing = sorted(TABLES.keys() - found)
    if missing:
        raise RunUnreadableError(
            f"{path} lacks the table {missing[0]!r}: the file was truncated or altered; restore it from a copy"
        )
