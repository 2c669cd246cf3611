"""Tells which examples a loss is of: by the identity of its targets, else by their values, never by what came last."""

from __future__ import annotations

import collections
import dataclasses
import weakref
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from separatrix.record.origins import Origin
from separatrix.record.ownership import flattened_tensors

_MOST_UNUSED = 64
_MOST_USED = 8
_MOST_ITEMS = 4096
_SMALL = 1024
_SMALL_BYTES = 1 << 20

NO_BATCH = "no batch of a DataLoader was fetched that it could be of"


@dataclasses.dataclass(eq=False)
class Batch:
    """Examples fetched together, and the tensors they came in: small ones held, of large ones only known while alive.

    `key` names the pass of the loader that fetched it. `trusted` where the user has said that losses are of these.
    """

    origin: Origin
    key: Hashable
    ids: np.ndarray
    small: list[torch.Tensor]
    large: list[weakref.ref[torch.Tensor]]
    trusted: bool = False

    @classmethod
    def of(cls, origin: Origin, key: Hashable, ids: np.ndarray, data: Any, trusted: bool = False) -> Batch:
        """The batch that a loader gave as `data`."""
        small: list[torch.Tensor] = []
        large: list[weakref.ref[torch.Tensor]] = []
        for tensor in _tensors(data):
            count = tensor.numel()
            if count <= _SMALL * max(1, len(ids)) and count * tensor.element_size() <= _SMALL_BYTES:
                small.append(tensor)
            else:
                large.append(weakref.ref(tensor))
        return cls(origin, key, ids, small, large, trusted)

    def tensors(self) -> Iterator[torch.Tensor]:
        """Those of its tensors that are alive."""
        yield from self.small
        for reference in self.large:
            tensor = reference()
            if tensor is not None:
                yield tensor


@dataclasses.dataclass(frozen=True)
class Match:
    """The rows of a loss are the examples `rows` of `batch`."""

    batch: Batch
    rows: slice

    @property
    def ids(self) -> np.ndarray:
        """Ids of the examples, in the order of the rows."""
        return self.batch.ids[self.rows]

    def overlaps(self, other: Match) -> bool:
        """Whether both hold one and the same fetched example."""
        return self.batch is other.batch and self.rows.start < other.rows.stop and other.rows.start < self.rows.stop


class Batches:
    """The batches fetched last: those no loss was of yet, and a few of those that were used."""

    def __init__(self) -> None:
        self._unused: list[Batch] = []
        self._used: list[Batch] = []
        self._items: collections.deque[Batch] = collections.deque(maxlen=_MOST_ITEMS)
        self._learnt: set[str] = set()
        self._mixed = False

    def __len__(self) -> int:
        return len(self._unused) + len(self._used) + len(self._items)

    def add(self, batch: Batch) -> None:
        """A batch was fetched."""
        self._unused.append(batch)
        del self._unused[:-_MOST_UNUSED]

    def add_item(self, item: Batch) -> None:
        """A single example was fetched, from which the user may make batches."""
        self._items.append(item)

    def clear(self) -> None:
        """Forget them all."""
        self._unused.clear()
        self._used.clear()
        self._items.clear()

    def match(self, kind: str, targets: torch.Tensor, rows: int) -> Match | str:
        """What the rows of a loss of `kind` with these targets are, or why that cannot be told."""
        if not len(self):
            return NO_BATCH
        targets = targets.detach()
        found = self._by_identity(targets, rows)
        if found is None:
            flat = targets.reshape(-1).cpu()
            found = self._by_value(kind, flat, targets.shape, rows)
        if isinstance(found, Match):
            self._use(found.batch)
        return found

    def _by_identity(self, targets: torch.Tensor, rows: int) -> Match | str | None:
        found: Match | None = None
        for batch in (*self._unused, *self._used, *(self._items if rows == 1 else ())):
            for tensor in batch.tensors():
                place = _place(targets, tensor, len(batch.ids), rows)
                if place is None:
                    continue
                match = Match(batch, place)
                if found is not None and not np.array_equal(found.ids, match.ids):
                    return "one tensor holds the targets of several batches"
                found = found or match
                break
        return found

    def _by_value(self, kind: str, flat: torch.Tensor, shape: Sequence[int], rows: int) -> Match | str:
        alike = flat.is_floating_point() and bool((flat == flat[:1]).all())
        one_hot = _as_classes(flat, shape, rows)
        # Where targets are mixed, a batch whose mixture happens to be pure is mixed none the less.
        self._mixed = self._mixed or (one_hot is None and len(shape) == 2 and flat.is_floating_point())
        one_hot = None if self._mixed else one_hot
        for batches in (self._unused, self._used):
            found = [(b, place) for b in batches for place in _equal_places(flat, one_hot, b, rows)]
            if len(found) > 1:
                return "several batches fetched before have the targets of the loss"
            if found:
                batch, place = found[0]
                # The ones that a discriminator is to say of real images are nobody's labels.
                if alike and kind not in self._learnt and not batch.trusted:
                    return "the targets of the loss are all alike and are not the tensor that the DataLoader gave"
                if not alike:
                    self._learnt.add(kind)
                return Match(batch, place)
            if batches is self._unused and self._items:
                window = self._window(flat, rows)
                if window is not None:
                    return window
        return "the targets of the loss are not those of a batch that was fetched"

    def _window(self, flat: torch.Tensor, rows: int) -> Match | str | None:
        """The consecutive items whose targets make up those of the loss."""
        items = list(self._items)
        if len(items) < rows or flat.numel() % rows:
            return None
        width = flat.numel() // rows
        wanted = flat.double().numpy().reshape(rows, width)
        starts: set[int] = set()
        for slot in range(max(len(item.small) for item in items)):
            values = [item.small[slot] if slot < len(item.small) else None for item in items]
            if any(v is None or v.numel() != width for v in values):
                continue
            table = np.array([v.detach().double().reshape(-1).cpu().numpy() for v in values if v is not None])
            windows = np.lib.stride_tricks.sliding_window_view(table, rows, axis=0)
            starts |= set(np.flatnonzero((windows == wanted.T).all(axis=(1, 2))).tolist())
        if len(starts) > 1:
            # They would stand in the way of telling what comes next.
            self._items.clear()
            return "several runs of the items fetched have the targets of the loss"
        if not starts:
            return None
        start = starts.pop()
        chosen = items[start : start + rows]
        for _ in range(start + rows):
            self._items.popleft()
        tensors = [torch.stack([t.detach().reshape(()) for t in column]) for column in _columns(chosen)]
        ids = np.concatenate([item.ids for item in chosen])
        batch = Batch(chosen[0].origin, None, ids, tensors, [], trusted=True)
        self._used.append(batch)
        return Match(batch, slice(0, rows))

    def _use(self, batch: Batch) -> None:
        if batch in self._unused:
            self._unused.remove(batch)
            self._used.append(batch)
        elif batch in self._items:
            self._items.remove(batch)
            self._used.append(batch)
        del self._used[:-_MOST_USED]


def _columns(items: Sequence[Batch]) -> Iterator[list[torch.Tensor]]:
    """The numbers that items have at the same place."""
    for slot in range(min(len(item.small) for item in items)):
        column = [item.small[slot] for item in items]
        if all(t.numel() == 1 for t in column):
            yield column


def _tensors(data: Any) -> Iterator[torch.Tensor]:
    """Tensors, arrays and single numbers inside nested containers, as tensors."""
    if isinstance(data, int | float) and not isinstance(data, bool):
        yield torch.tensor(data)
    elif isinstance(data, np.ndarray | np.generic):
        if data.dtype.kind in "fiub":
            yield torch.from_numpy(np.asarray(data))
    elif isinstance(data, Mapping):
        for value in data.values():
            yield from _tensors(value)
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _tensors(value)
    else:
        yield from (t for t in flattened_tensors(data) if t.layout is torch.strided)


def _place(targets: torch.Tensor, tensor: torch.Tensor, count: int, rows: int) -> slice | None:
    """Rows of `tensor`, of `count` examples, that `targets` is a view of."""
    if targets is tensor:
        return slice(0, rows) if rows == count else None
    if (
        targets.device != tensor.device
        or targets.dtype != tensor.dtype
        or not targets.numel()
        or not count
        or not (targets.is_contiguous() and tensor.is_contiguous())
        or tensor.numel() % count
        or targets.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()
    ):
        return None
    width = tensor.numel() // count
    offset, rest = divmod(int(targets.storage_offset()) - int(tensor.storage_offset()), max(1, width))
    if rest or targets.numel() != rows * width or not 0 <= offset <= count - rows:
        return None
    return slice(offset, offset + rows)


def _equal_places(flat: torch.Tensor, one_hot: torch.Tensor | None, batch: Batch, rows: int) -> list[slice]:
    """Rows of a batch, as a whole or cut into parts of `rows`, that have these targets, on any device in any type."""
    count = len(batch.ids)
    if not 0 < rows <= count or not flat.numel():
        return []
    places: dict[int, slice] = {}
    for tensor in batch.small:
        if tensor.numel() % count:
            continue
        table = tensor.detach().reshape(count, -1).cpu()
        wanted = flat if flat.numel() == rows * table.shape[1] else one_hot
        if wanted is None or wanted.numel() != rows * table.shape[1] or table.is_complex():
            continue
        for start in {*range(0, count - rows + 1, rows), count - rows}:
            if torch.equal(table[start : start + rows].reshape(-1).to(wanted.dtype), wanted):
                places[start] = slice(start, start + rows)
    return list(places.values())


def _as_classes(flat: torch.Tensor, shape: Sequence[int], rows: int) -> torch.Tensor | None:
    """Classes of targets that are one-hot vectors, shape (rows,); else None."""
    if len(shape) != 2 or shape[0] != rows or shape[1] < 2:
        return None
    table = flat.reshape(rows, shape[1])
    classes = table.argmax(dim=1)
    return classes if bool((table == torch.nn.functional.one_hot(classes, shape[1]).to(table.dtype)).all()) else None
