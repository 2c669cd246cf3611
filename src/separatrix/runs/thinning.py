"""Thins the densest series of a run that has reached its size limit, keeping the extremes of every stretch."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterator, Sequence

import numpy as np

from separatrix.runs import schema

_BUCKET = 4
_FEWEST_VALUES = 64
_FEWEST_PASSES = 8
_OVER_EXAMPLES = '["example"]'
_AT_ONCE = 1 << 16
_BYTES_AT_ONCE = 1 << 24


def size_in_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the database that hold data; pages freed by thinning are used again and do not count."""
    pages, free, page_size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * page_size)


def kept_rows(lowest: np.ndarray, highest: np.ndarray, nonfinite: np.ndarray) -> np.ndarray:
    """Mask of rows to keep: the first, the last, and of every four the lowest, the highest and one that is not finite.

    `lowest` and `highest` are over the finite values of a row (inf and -inf where it has none). `nonfinite` is positive
    for a row that holds other values; of the four the one with the largest number is kept. At least one row of every
    full four is dropped, so that a series which is NaN to its end shrinks too.
    """
    rows = len(lowest)
    keep = np.zeros(rows, dtype=bool)
    keep[[0, -1]] = True
    padding = -rows % _BUCKET
    starts = np.arange(0, rows + padding, _BUCKET)
    for score in (-lowest, highest, np.where(nonfinite > 0, nonfinite, -np.inf)):
        buckets = np.pad(score, (0, padding), constant_values=-np.inf).reshape(-1, _BUCKET)
        best = buckets.argmax(axis=1)
        chosen = (starts + best)[buckets[np.arange(len(best)), best] > -np.inf]
        keep[chosen] = True
    return keep


def _kept_points(values: np.ndarray) -> np.ndarray:
    finite = np.isfinite(values)
    newly = ~finite & np.concatenate(([True], finite[:-1]))
    return kept_rows(
        np.where(finite, values, np.inf), np.where(finite, values, -np.inf), (~finite).astype(float) + newly
    )


def _thin_points(connection: sqlite3.Connection, series: int) -> Iterator[int]:
    sizes = connection.execute("SELECT id, length(data) FROM points WHERE series=? ORDER BY id", (series,)).fetchall()
    for ids in _batches(sizes, 8 * _AT_ONCE):
        with schema.transaction(connection):
            between = (series, ids[0], ids[-1])
            query = "SELECT first, stride, steps, data FROM points WHERE series=? AND id BETWEEN ? AND ? ORDER BY id"
            steps, values = schema.unpack_points(connection.execute(query, between).fetchall())
            keep = _kept_points(values)
            connection.execute("DELETE FROM points WHERE series=? AND id BETWEEN ? AND ?", between)
            # The first id is used again: of values at one step the one with the larger id counts.
            row = (ids[0], *schema.pack_points(series, steps[keep], values[keep]))
            connection.execute("INSERT INTO points VALUES(?,?,?,?,?,?)", row)
        yield int(len(keep) - keep.sum())


def _batches(sizes: Sequence[tuple[int, int]], most: int, fewest: int = 1) -> Iterator[list[int]]:
    batch: list[int] = []
    total = 0
    for row, size in sizes:
        batch.append(row)
        total += size
        if total >= most and len(batch) >= fewest:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def _thin_vectors(connection: sqlite3.Connection, series: int, dtype: str) -> Iterator[int]:
    # Pieces over the same labels are compared with each other only, unless there are hardly two of a kind.
    query = "SELECT id, first, positions, length(data), step FROM vectors WHERE series=?"
    rows = connection.execute(f"{query} ORDER BY first, positions, step, id", (series,)).fetchall()
    kinds = [list(kind) for _, kind in itertools.groupby(rows, key=lambda row: row[1:4])]
    if len(rows) < 2 * _BUCKET * len(kinds):
        kinds = [sorted(rows, key=lambda row: (row[4], row[0]))]
    for kind in kinds:
        for ids in _batches([(row[0], row[3]) for row in kind], _BYTES_AT_ONCE, _FEWEST_VALUES):
            yield _thin_rows(connection, ids, dtype)


def _thin_rows(connection: sqlite3.Connection, ids: list[int], dtype: str) -> int:
    lowest, highest, nonfinite = (np.zeros(len(ids)) for _ in range(3))
    previous = np.zeros(0, dtype=bool)
    for index, row in enumerate(ids):
        data = connection.execute("SELECT data FROM vectors WHERE id=?", (row,)).fetchone()[0]
        values = np.frombuffer(data, dtype=np.dtype(dtype).newbyteorder("<")).astype(np.float64)
        finite = np.isfinite(values)
        lowest[index] = values.min(where=finite, initial=np.inf) if finite.any() else np.inf
        highest[index] = values.max(where=finite, initial=-np.inf) if finite.any() else -np.inf
        known = previous if len(previous) == len(finite) else np.zeros(len(finite), dtype=bool)
        # A row in which further labels stop being finite tells more than one in which they still are not.
        nonfinite[index] = float(not finite.all()) + np.count_nonzero(~finite & ~known)
        previous = ~finite
    keep = kept_rows(lowest, highest, nonfinite)
    dropped = [ids[index] for index in np.flatnonzero(~keep)]
    with schema.transaction(connection):
        connection.execute("DELETE FROM vectors WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(dropped),))
    return len(dropped)


def _thin_passes(connection: sqlite3.Connection, series: int) -> Iterator[int]:
    """Drop every second pass over the examples, the same ones of every series; the first and the last two stay."""
    query = "SELECT DISTINCT step FROM vectors WHERE series=? ORDER BY step"
    steps = [step for (step,) in connection.execute(query, (series,))]
    for step in steps[1:-2:2]:
        with schema.transaction(connection):
            done = connection.execute("DELETE FROM vectors WHERE series=? AND step=?", (series, step))
        yield int(done.rowcount)


def thin(connection: sqlite3.Connection) -> Iterator[int]:
    """Halve, roughly, the series that hold at least half as many bytes as the largest one.

    Works in transactions of its own, each of a fraction of a second; after each one yields the number of values (of
    rows, where they are over labels) removed.
    """
    points = connection.execute(
        "SELECT series, sum(length(data))/8, sum(length(data)+40) FROM points GROUP BY series"
    ).fetchall()
    vectors = connection.execute(
        "SELECT series, count(*), sum(length(data)+ifnull(length(positions), 0)+48) FROM vectors GROUP BY series"
    ).fetchall()
    dtypes = dict(connection.execute("SELECT id, dtype FROM series").fetchall())
    passes = {series for (series,) in connection.execute("SELECT id FROM series WHERE dims=?", (_OVER_EXAMPLES,))}
    query = "SELECT series, count(DISTINCT step) FROM vectors GROUP BY series"
    vectors = [row for row in vectors if row[0] not in passes]
    sizes = dict(connection.execute("SELECT series, sum(length(data)) FROM vectors GROUP BY series").fetchall())
    recorded = [(series, n, sizes[series]) for series, n in connection.execute(query) if series in passes]
    thinnable = [size for _, values, size in (*points, *vectors) if values >= _FEWEST_VALUES]
    largest = max([*thinnable, *(size for _, steps, size in recorded if steps >= _FEWEST_PASSES)], default=0)
    for series, values, size in points:
        if values >= _FEWEST_VALUES and 2 * size >= largest:
            yield from _thin_points(connection, series)
    for series, values, size in vectors:
        if values >= _FEWEST_VALUES and 2 * size >= largest:
            yield from _thin_vectors(connection, series, dtypes[series])
    # A pass is kept or dropped with all its series, the narrow ones too.
    if any(steps >= _FEWEST_PASSES and 2 * size >= largest for _, steps, size in recorded):
        for series, steps, _ in recorded:
            if steps >= _FEWEST_PASSES:
                yield from _thin_passes(connection, series)
