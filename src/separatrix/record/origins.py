"""Where examples come from: datasets behind subsets and wrappers, and the labels of their examples in a run."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from separatrix.record.items import Indexed
from separatrix.runs.writer import RunWriter

_MOST_NUMBERED = 1 << 27


class Origin:
    """A dataset, or another set of examples, whose members have labels along the dimension `example`."""

    def __init__(self, what: object = None) -> None:
        self.kind = type(what)
        self.length = _length(what)
        self._what: weakref.ref[Any] | None = None
        self._identity = id(what)
        with contextlib.suppress(TypeError):
            self._what = weakref.ref(what)
        self._prefix = ""
        self._writer: RunWriter | None = None
        self._numbered = 0

    def is_of(self, what: object) -> bool:
        """Whether these are the examples of `what`."""
        return self._identity == id(what) if self._what is None else self._what() is what

    def may_be_followed_by(self, what: object) -> bool:
        """Whether this dataset is gone and `what` looks like it made again."""
        gone = self._what is not None and self._what() is None
        return gone and self.kind is type(what) and self.length == _length(what)

    def go_on_as(self, what: object) -> None:
        """These are the examples of `what` from now on."""
        with contextlib.suppress(TypeError):
            self._what = weakref.ref(what)

    def label(self, writer: RunWriter, prefix: str) -> None:
        """Give labels to the examples: indices as they are, behind `prefix`."""
        if self._writer is None:
            self._writer, self._prefix = writer, prefix
            few = self.length is not None and self.length <= _MOST_NUMBERED
            if not prefix and few and writer.number_labels("example", self.length or 0):
                self._numbered = self.length or 0

    @property
    def labelled(self) -> bool:
        """Whether `label` was called."""
        return self._writer is not None

    def positions(self, ids: np.ndarray | Sequence[Hashable]) -> np.ndarray:
        """Positions along the dimension `example` of the examples with these ids."""
        if isinstance(ids, np.ndarray) and self._numbered:
            if ids.size and int(ids.min()) >= 0 and int(ids.max()) < self._numbered:
                return ids.astype(np.int32)
            if self.length and ids.size and -self.length <= int(ids.min()) and int(ids.max()) < self.length:
                return (ids % self.length).astype(np.int32)
        if self._writer is None:
            raise ValueError("the examples have no labels yet")
        wanted = ids.tolist() if isinstance(ids, np.ndarray) else ids
        return np.array(
            self._writer.positions("example", [f"{self._prefix}{known}" for known in wanted]), dtype=np.int32
        )


class Origins:
    """The origins met so far."""

    def __init__(self) -> None:
        self._known: list[Origin] = []

    def of(self, dataset: object) -> Origin:
        """The origin of a dataset that is neither a subset nor a wrapper."""
        found = next((o for o in self._known if o.is_of(dataset)), None)
        if found is None:
            found = next((o for o in self._known if o.may_be_followed_by(dataset)), None)
            if found is None:
                found = Origin(dataset)
                self._known.append(found)
            else:
                found.go_on_as(dataset)
        return found

    def labelled(self) -> int:
        """How many of them have given labels."""
        return sum(origin.labelled for origin in self._known)

    def add(self) -> Origin:
        """An origin that is no dataset."""
        origin = Origin()
        self._known.append(origin)
        return origin


def _length(what: object) -> int | None:
    try:
        return len(what)  # type: ignore[arg-type]
    except Exception:
        return None


def base(dataset: Any, ids: Sequence[int] | np.ndarray) -> tuple[Any, np.ndarray]:
    """The dataset behind subsets and wrappers, and the indices there of those in `dataset`.

    Raises:
        ValueError: the indices are no integers.
    """
    from torch.utils.data import Subset

    found = np.asarray(ids)
    while True:
        if found.dtype.kind not in "iu" or found.ndim != 1:
            raise ValueError("the indices of a dataset are no integers")
        if isinstance(dataset, Subset):
            indices = dataset.indices
            if isinstance(indices, np.ndarray):
                found = indices[found]
            else:
                found = np.array([int(indices[i]) for i in found.tolist()], dtype=np.int64)
        elif not isinstance(dataset, Indexed):
            return dataset, found.astype(np.int64)
        dataset = dataset.dataset
