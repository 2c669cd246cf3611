"""Reads series, events, segments and facts out of an opened run file, and trusts none of its values."""

from __future__ import annotations

import collections
import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from separatrix.runs import schema
from separatrix.runs.types import SEVERITIES, Event, Segment, SeriesData, SeriesSpec, Status

_MOST_CELLS = 1 << 27
_MOST_CELLS_PER_STORED = 16
_FEWEST_BYTES_OF_A_ROW = 4


class _Part(NamedTuple):
    """One stored series: values of shape (steps, *used), `used` the positions measured along each dimension.

    `measured` has the shape of `values`: whether a cell holds a value, be it NaN.
    """

    spec: SeriesSpec
    steps: np.ndarray
    values: np.ndarray
    measured: np.ndarray
    used: tuple[np.ndarray, ...]


def _rows(connection: sqlite3.Connection, query: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
    """Rows of a query; no more than fit the file, for the pages of a damaged tree may lead in circles."""
    pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    most = pages * size // _FEWEST_BYTES_OF_A_ROW
    rows = connection.execute(f"{query} LIMIT {most + 1}", parameters).fetchall()
    if len(rows) > most:
        raise ValueError("it has more rows than its size allows")
    return rows


def _require(value: Any, kinds: type | tuple[type, ...], what: str) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(f"{what} is {type(value).__name__}")
    return value


def read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    """All facts stored about the run; those with a known key have the type that `Run` promises."""
    meta = {_require(key, str, "a key"): json.loads(value) for key, value in _rows(connection, "SELECT * FROM meta")}
    for key in ("config", "environment"):
        _require(meta.get(key, {}), dict, key)
    for key in ("parameters", "modules", "losses"):
        for item in _require(meta.get(key, []), list, key):
            _require(_require(item, dict, f"an item of {key}").get("name"), str, f"a name in {key}")
    return meta


def read_events(connection: sqlite3.Connection) -> tuple[Event, ...]:
    """What happened once, in order of writing."""
    events = []
    for kind, message, step, severity, time, data in _rows(
        connection, "SELECT kind, message, step, severity, time, data FROM events ORDER BY id"
    ):
        if severity not in SEVERITIES:
            raise ValueError(f"unknown severity {severity!r:.60}")
        _require(step, (int, type(None)), "the step of an event")
        _require(time, float, "the time of an event")
        words = _require(kind, str, "the kind of an event"), _require(message, str, "the message of an event")
        events.append(Event(*words, step, severity, time, _require(json.loads(data), dict, "the data of an event")))
    return tuple(events)


def read_segments(connection: sqlite3.Connection) -> list[tuple[Segment, float]]:
    """The pieces of the run as stored, each with the time of its last sign of life."""
    columns = "id, status, started, ended, first_step, last_step, hostname, process_id, traceback, heartbeat"
    optional = {"ended": float, "first_step": int, "last_step": int, "traceback": str}
    required = {"id": int, "started": float, "hostname": str, "process_id": int, "heartbeat": float}
    found = []
    for row in _rows(connection, f"SELECT {columns} FROM segments ORDER BY id"):
        fields = dict(zip(columns.split(", "), row, strict=True))
        for name, kind in required.items():
            _require(fields[name], kind, name)
        for name, kind in optional.items():
            _require(fields[name], (kind, type(None)), name)
        heartbeat = fields.pop("heartbeat")
        status = Status(fields.pop("status"))
        found.append((Segment(index=fields.pop("id"), status=status, **fields), heartbeat))
    return found


def read_specs(connection: sqlite3.Connection) -> dict[str, list[tuple[int, SeriesSpec]]]:
    """By name, id and spec of each series that holds a value."""
    rows = _rows(
        connection,
        "SELECT id, name, dims, labels, units, dtype, description, source FROM series AS s"
        " WHERE EXISTS (SELECT 1 FROM points WHERE series=s.id)"
        " OR EXISTS (SELECT 1 FROM vectors WHERE series=s.id) ORDER BY id",
    )
    found: dict[str, list[tuple[int, SeriesSpec]]] = {}
    for series, name, dims, labels, units, dtype, description, source in rows:
        for word in (name, units, dtype, description, source):
            _require(word, str, "a description of a series")
        if dtype not in schema.DTYPES:
            raise ValueError(f"unknown number type {dtype!r:.60}")
        fixed = _require(json.loads(labels), dict, "the labels of a series")
        along = tuple(_require(json.loads(dims), list, "the dimensions of a series"))
        if len({*along, *fixed}) != len(along) + len(fixed) or not all(isinstance(v, str) for v in fixed.values()):
            raise ValueError(f"unknown dimensions {dims!r:.60} {labels!r:.60}")
        spec = SeriesSpec(name, along, units, description, fixed, dtype, source)
        found.setdefault(name, []).append((series, spec))
    return found


def read_labels(connection: sqlite3.Connection, dim: str) -> tuple[str, ...]:
    """The labels along a dimension, by position."""
    rows = _rows(connection, "SELECT position, label FROM labels WHERE dim=? ORDER BY position", (dim,))
    for expected, (position, label) in enumerate(rows):
        if position != expected or not isinstance(label, str):
            raise ValueError(f"the labels of {dim!r} have a gap at {expected}")
    return tuple(label for _, label in rows)


def read_series(connection: sqlite3.Connection, variants: Sequence[tuple[int, SeriesSpec]]) -> SeriesData:
    """The series that share a name, as one array: a fixed label in which they differ becomes its first dimension.

    Along each dimension stand the labels that were measured, be it as NaN.
    """
    spec = variants[0][1]
    if any(other.dims != spec.dims for _, other in variants):
        raise ValueError(f"series {spec.name!r:.60} has several sets of dimensions")
    labels = {dim: read_labels(connection, dim) for dim in spec.dims}
    sizes = tuple(len(names) for names in labels.values())
    parts = [
        _read_vectors(connection, series, own, sizes) if own.dims else _read_points(connection, series, own)
        for series, own in variants
    ]
    steps, values, measured, used = parts[0][1:] if len(parts) == 1 else _merged(parts)
    coords = {dim: tuple(labels[dim][i] for i in where) for dim, where in zip(spec.dims, used, strict=True)}
    if len(parts) > 1:
        coords = {**_varying([part.spec for part in parts]), **coords}
    return SeriesData(spec.name, steps, values, measured, coords, spec.units, spec.description)


def _read_points(connection: sqlite3.Connection, series: int, spec: SeriesSpec) -> _Part:
    """A scalar series; of several values at one step the one written last."""
    query = "SELECT first, stride, steps, data FROM points WHERE series=? ORDER BY id"
    steps, values = schema.unpack_points(_rows(connection, query, (series,)))
    if np.any(steps[1:] <= steps[:-1]):
        order = np.argsort(steps, kind="stable")
        steps, values = steps[order], values[order]
        last = np.append(steps[1:] != steps[:-1], True)
        steps, values = steps[last], values[last]
    return _Part(spec, steps, values, _everywhere(values.shape), ())


def _everywhere(shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.True_, shape)


def _read_vectors(connection: sqlite3.Connection, series: int, spec: SeriesSpec, sizes: tuple[int, ...]) -> _Part:
    """A series over labels; NaN, and not `measured`, where a label has no value at a step."""
    kind = np.dtype(spec.dtype).newbyteorder("<")
    query = "SELECT step, first, positions, shape, data FROM vectors WHERE series=? ORDER BY step, id"
    rows = _rows(connection, query, (series,))
    every = np.array([row[0] for row in rows])
    if every.dtype != np.int64:
        raise TypeError("steps that are no integers")
    begins = np.append(True, every[1:] != every[:-1])
    steps, where = every[begins], np.cumsum(begins) - 1
    again = np.arange(len(rows)) - np.flatnonzero(begins)[where]
    # Rows of one form, no two at one step, are filled in together; where pieces overlap, the one written last counts.
    alike: dict[tuple[Any, ...], list[int]] = collections.defaultdict(list)
    for index, (nth, row) in enumerate(zip(again.tolist(), rows, strict=True)):
        alike[nth, row[1], row[2], row[3], len(row[4])].append(index)
    pieces = [(_along(form, kind, sizes), indices) for form, indices in sorted(alike.items(), key=lambda f: f[0][0])]
    used = tuple(_used(n, [piece[axis] for piece, _ in pieces]) for axis, n in enumerate(sizes))
    cells = len(steps) * math.prod(len(positions) for positions in used)
    stored = sum(len(row[4]) for row in rows) // kind.itemsize
    if cells > max(_MOST_CELLS, _MOST_CELLS_PER_STORED * stored):
        raise ValueError(f"{stored} values claim to be spread over {cells}")
    shape = (len(steps), *(len(positions) for positions in used))
    values = np.full(shape, np.nan, dtype=np.promote_types(kind.newbyteorder("="), np.float32))
    # A single form has a row at every step and makes up the labels in use: no cell is left over.
    measured = _everywhere(shape) if len(pieces) == 1 else np.zeros(shape, dtype=bool)
    for piece, indices in pieces:
        data = np.frombuffer(b"".join([rows[index][4] for index in indices]), dtype=kind)
        inner = tuple(slice(0, len(positions)) for positions in piece[1:])
        columns = np.searchsorted(used[0], piece[0])
        block = data.reshape(len(indices), *(len(positions) for positions in piece))
        target: tuple[Any, ...] = (where[indices][:, None], columns[None, :], *inner)
        values[target] = block
        if len(pieces) > 1:
            measured[target] = True
    return _Part(spec, steps, values, measured, used)


def _along(form: tuple[Any, ...], kind: np.dtype[Any], sizes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The positions that a stored piece covers along each dimension."""
    _, first, positions, shape, size = form
    count, rest = divmod(size, kind.itemsize)
    lengths = [count] if shape is None else _require(json.loads(shape), list, "a shape")
    if rest or any(type(n) is not int or n < 0 for n in lengths) or math.prod(lengths) != count:
        raise ValueError(f"{size} bytes do not fill the shape {lengths!r:.60}")
    if len(lengths) != len(sizes) or any(n > most for n, most in zip(lengths, sizes, strict=True)):
        raise ValueError(f"the shape {lengths!r:.60} does not fit the labels")
    if positions is None:
        if not 0 <= _require(first, int, "a position") <= sizes[0] - lengths[0]:
            raise ValueError(f"{lengths[0]} values from position {first} on reach beyond {sizes[0]} labels")
        outer = np.arange(first, first + lengths[0])
    else:
        outer = np.frombuffer(positions, dtype="<i4")
        if len(outer) != lengths[0] or np.any((outer < 0) | (outer >= sizes[0])):
            raise ValueError("positions that fit neither the values nor the labels")
    return outer, *(np.arange(n) for n in lengths[1:])


def _used(size: int, positions: Iterable[np.ndarray]) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    for piece in positions:
        mask[piece] = True
    return np.flatnonzero(mask)


def _merged(parts: Sequence[_Part]) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    steps = np.unique(np.concatenate([part.steps for part in parts]))
    axes = range(len(parts[0].used))
    used = tuple(np.unique(np.concatenate([part.used[axis] for part in parts])) for axis in axes)
    shape = (len(steps), len(parts), *(len(positions) for positions in used))
    if math.prod(shape) > max(_MOST_CELLS, _MOST_CELLS_PER_STORED * sum(part.values.size for part in parts)):
        raise ValueError(f"values claim to be spread over {math.prod(shape)}")
    values = np.full(shape, np.nan, dtype=np.result_type(*(part.values for part in parts)))
    measured = np.zeros(shape, dtype=bool)
    for index, part in enumerate(parts):
        where = [np.searchsorted(steps, part.steps)]
        where += [np.searchsorted(whole, own) for whole, own in zip(used, part.used, strict=True)]
        values[:, index][np.ix_(*where)] = part.values
        measured[:, index][np.ix_(*where)] = part.measured
    return steps, values, measured, used


def _varying(specs: Sequence[SeriesSpec]) -> dict[str, tuple[str, ...]]:
    keys = sorted({key for spec in specs for key in spec.labels})
    varying = [key for key in keys if len({spec.labels.get(key) for spec in specs}) > 1]
    dim = "optimizer" if "optimizer" in varying or not varying else varying[0]
    if dim in specs[0].dims:
        raise ValueError(f"{dim!r} is both a dimension and a label")
    return {dim: tuple(",".join(spec.labels.get(key, "") for key in varying) for spec in specs)}


def query_functions(connection: sqlite3.Connection) -> Mapping[str, tuple[int, Any]]:
    """SQL functions, each with its number of arguments: those that read a label, and what the view `scalars` needs."""
    dims: dict[int, str] = {}
    dtypes = {}
    for variants in read_specs(connection).values():
        for series, spec in variants:
            dtypes[series] = np.dtype(spec.dtype).newbyteorder("<")
            if len(spec.dims) == 1:
                dims[series] = spec.dims[0]
    # Labels of examples may be millions: they are read when they are asked for.
    positions = {dim: {label: i for i, label in enumerate(read_labels(connection, dim))} for dim in dims.values()}

    def place(label: str, series: int, first: int, where: bytes | None, data: bytes) -> int | None:
        position = positions.get(dims.get(series, ""), {}).get(label)
        if position is None:
            return None
        if where is None:
            index = position - first
            return index if 0 <= index < len(data) // dtypes[series].itemsize else None
        found = np.flatnonzero(np.frombuffer(where, dtype="<i4") == position)
        return int(found[0]) if found.size else None

    def label_value(label: str, series: int, first: int, where: bytes | None, data: bytes) -> float | None:
        index = place(label, series, first, where, data)
        return None if index is None else float(np.frombuffer(data, dtype=dtypes[series])[index])

    def label_measured(label: str, series: int, first: int, where: bytes | None, data: bytes) -> bool:
        return place(label, series, first, where, data) is not None

    def indices(data: bytes) -> str:
        return json.dumps(list(range(len(data) // 8)))

    def step_at(first: int, stride: int, steps: bytes | None, index: int) -> int:
        return (
            first + stride * index if steps is None else int.from_bytes(steps[8 * index :][:8], "little", signed=True)
        )

    def value_at(data: bytes, index: int) -> float:
        return float(np.frombuffer(data, dtype="<f8", count=1, offset=8 * index)[0])

    return {
        "label_value": (5, label_value),
        "label_measured": (5, label_measured),
        "indices": (1, indices),
        "step_at": (4, step_at),
        "value_at": (2, value_at),
    }


QUERY_VIEWS = (
    "CREATE TEMP VIEW scalars AS SELECT s.name AS name, s.labels AS labels,"
    " step_at(p.first, p.stride, p.steps, i.value) AS step, value_at(p.data, i.value) AS value"
    " FROM points p JOIN series s ON s.id = p.series, json_each(indices(p.data)) i",
    "CREATE TEMP VIEW arrays AS SELECT s.name AS name, s.labels AS labels, v.step AS step, v.series AS series,"
    " v.first AS first, v.positions AS positions, v.data AS data FROM vectors v JOIN series s ON s.id = v.series",
)
"""Views for users' queries, made in the temporary schema of their connection."""
