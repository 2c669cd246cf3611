"""Values of single examples: gathered over a pass through the data, stored in chunks, then as one row a pass."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from separatrix.runs.types import SeriesSpec
from separatrix.runs.writer import RunWriter

_FEWEST_A_PIECE = 64
"""Examples that a gap-free piece of a row has on average at least, or positions are stored instead."""


@dataclasses.dataclass
class Column:
    """One series over the examples of the pass in progress, by position."""

    series: int
    values: np.ndarray
    seen: np.ndarray

    def put(self, positions: np.ndarray, values: np.ndarray) -> None:
        """Note values; of several of one example the last counts."""
        size = int(positions.max(initial=-1)) + 1
        if size > len(self.seen):
            room = max(size, 2 * len(self.seen)) - len(self.seen)
            self.values = np.concatenate([self.values, np.zeros(room, self.values.dtype)])
            self.seen = np.concatenate([self.seen, np.zeros(room, bool)])
        self.values[positions] = values
        self.seen[positions] = True

    def pieces(self) -> list[tuple[int, np.ndarray | None, np.ndarray]]:
        """What was seen as (first, positions, values): without gaps where that is shorter to store."""
        where = np.flatnonzero(self.seen)
        if not where.size:
            return []
        gaps = np.flatnonzero(np.diff(where) != 1) + 1
        if (len(gaps) + 1) * _FEWEST_A_PIECE <= max(len(where), _FEWEST_A_PIECE):
            return [(int(run[0]), None, self.values[run[0] : run[-1] + 1]) for run in np.split(where, gaps)]
        return [(0, where.astype(np.int32), self.values[where])]


class Passes:
    """Holds the pass in progress, and no more; the thread that stores takes from it what is new, as a chunk.

    Chunks of a pass stand at its first step, where they complete each other on reading; once it has ended, one row at
    its last step takes their place.
    """

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self._lock = threading.Lock()
        self._new: collections.deque[tuple[np.ndarray, Mapping[str, np.ndarray]]] = collections.deque()
        self._columns: dict[str, Column] = {}
        self._series: dict[str, tuple[int, np.dtype[np.generic]]] = {}
        self.first: int | None = None
        """First step of the pass in progress, once a value is known of it."""
        writer.gather(self.hand_over)

    def declare(self, spec: SeriesSpec) -> None:
        """Make a series known."""
        self._series[spec.name] = self._writer.series(spec), np.dtype(spec.dtype)

    def add(self, first: int, positions: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Note values of examples at `positions`, whose arrays must not change; `first` counts at a pass's beginning.

        A value that is NaN is none: nothing was measured of that example.
        """
        with self._lock:
            if self.first is None:
                self.first = first
            self._new.append((positions, values))

    def hand_over(self) -> None:
        """Give what is new to the writer, as a chunk of each series."""
        with self._lock:
            self._hand_over()

    def _hand_over(self) -> None:
        new = [self._new.popleft() for _ in range(len(self._new))]
        if self.first is None:
            return
        everywhere = np.concatenate([positions for positions, _ in new]) if new else np.zeros(0, np.int32)
        order = _last_of_each(everywhere)
        for name in dict.fromkeys(name for _, values in new for name in values):
            parts = [(positions, values[name]) for positions, values in new if name in values]
            values = np.concatenate([values for _, values in parts])
            positions, chosen = everywhere, order
            missing = np.isnan(values)
            if missing.any() or len(parts) < len(new):
                positions = np.concatenate([positions for positions, _ in parts])[~missing]
                values = values[~missing]
                chosen = _last_of_each(positions)
            if chosen.size:
                self._put(name, positions[chosen].astype(np.int32), values[chosen])

    def _put(self, name: str, positions: np.ndarray, values: np.ndarray) -> None:
        assert self.first is not None
        series, dtype = self._series[name]
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = Column(series, np.zeros(0, dtype), np.zeros(0, bool))
        stored = values.astype(dtype)
        column.put(positions, stored)
        self._writer.vector(series, self.first, stored, positions=positions)

    def end(self, last: int) -> None:
        """The pass has ended with step `last`: one row of each series takes the place of its chunks."""
        with self._lock:
            self._hand_over()
            columns, self._columns = self._columns, {}
            first, self.first = self.first, None
        if first is not None:
            for column in columns.values():
                self._writer.replace(column.series, first, max(first, last), column.pieces())


def _last_of_each(positions: np.ndarray) -> np.ndarray:
    """Where each position stands for the last time, in the order of the positions."""
    _, last = np.unique(positions[::-1], return_index=True)
    return len(positions) - 1 - last


class Turns:
    """Tells when a pass through the data ends: a loader begins anew, or an example returns where there is none."""

    def __init__(self) -> None:
        self._keys: dict[object, Hashable] = {}
        self._leading: object = None
        self._ended = False
        self._alone: set[object] = set()
        self._seen = np.zeros(0, bool)
        self._count = self._fresh = 0
        self._distinct: dict[object, int] = {}

    def begins(self, source: object, key: Hashable, positions: np.ndarray) -> bool:
        """Whether a batch of these examples begins another pass; `key` names the pass of its loader, if it has one.

        The source of the first batch leads. Another one takes over when the leading loader is at its end, or when it
        goes through its own data without a batch of the leading one in between.
        """
        if not self._keys or (self._ended and (source not in self._keys or key != self._keys[source])):
            self._leading = source
            begins = True
        elif source not in self._keys:
            begins = False
        elif key is None:
            begins = self._returns(source, positions) and self._leads(source)
        else:
            begins = key != self._keys[source] and self._leads(source)
        if source is self._leading:
            self._alone.clear()
        elif source not in self._keys or key != self._keys[source]:
            self._alone.add(source)
        self._keys[source] = key
        if begins:
            self._ended = False
            self._seen[:] = False
            self._count = self._fresh = 0
        return begins

    def ended(self, source: object, key: Hashable) -> None:
        """The loader of a pass has no more batches."""
        if source is self._leading and key == self._keys.get(source):
            self._ended = True

    def note(self, source: object, positions: np.ndarray) -> None:
        """The examples of a batch that belongs to the pass, once its step is over."""
        size = int(positions.max(initial=-1)) + 1
        if size > len(self._seen):
            self._seen = np.concatenate([self._seen, np.zeros(max(size, 2 * len(self._seen)) - len(self._seen), bool)])
        self._fresh += len(np.unique(positions[~self._seen[positions]]))
        self._seen[positions] = True
        self._count += len(positions)
        self._distinct[source] = max(self._distinct.get(source, 0), self._fresh)

    def examples(self, source: object) -> int:
        """The most examples of a source that a pass has shown so far."""
        return self._distinct.get(source, 0)

    @property
    def leading(self) -> object:
        """The source whose passes are counted."""
        return self._leading

    def current(self) -> set[tuple[Any, Hashable]]:
        """Each source with the pass that its last batch was of."""
        return set(self._keys.items())

    def key(self, source: object) -> Hashable:
        """The pass that the last batch of `source` was of."""
        return self._keys.get(source)

    def _leads(self, source: object) -> bool:
        if source is not self._leading and source in self._alone:
            self._leading = source
        return source is self._leading

    def _returns(self, source: object, positions: np.ndarray) -> bool:
        known = positions[positions < len(self._seen)]
        # The first batch of a pass may hold examples that the one before left out; a few that return early, as in
        # drawing with replacement, are no new pass.
        return bool(self._seen[known].any()) and 2 * self._count >= self._distinct.get(source, 0)
