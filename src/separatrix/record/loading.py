"""Follows DataLoaders: which indices each batch that they give was fetched by, whatever the sampler and the workers."""

from __future__ import annotations

import collections
import itertools
import weakref
from collections.abc import Hashable
from typing import Any

import numpy as np


class Loading:
    """One iterator of a DataLoader: indices asked for whose batch it has not given yet, in order."""

    def __init__(self) -> None:
        self.waiting: collections.deque[Any] = collections.deque()
        self.serial = 0
        self.given = 0
        self.last: tuple[object, Hashable] | None = None
        """Where the batch given last was from, and the pass of which it was."""
        self._sampling: object = None

    def asked(self, sampling: object, indices: Any, serials: itertools.count[int]) -> None:
        """Indices were drawn; `sampling` is the iterator over the sampler, another one in each pass."""
        if self._sampling is not sampling:
            # Iterators with persistent workers are used again, and drop what they had fetched ahead.
            self._sampling = sampling
            self.waiting.clear()
            self.serial, self.given = next(serials), 0
        self.waiting.append(indices)


class Loadings:
    """The DataLoader iterators alive.

    An iterator gives its batches in the order in which it asks for them, workers or not, unless `in_order` is False.
    """

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Any, Loading] = weakref.WeakKeyDictionary()
        self._serials = itertools.count(1)

    def asked(self, iterator: Any, indices: Any) -> None:
        """A DataLoader's iterator has drawn the indices of a batch to come."""
        loading = self._known.get(iterator)
        if loading is None:
            loading = self._known[iterator] = Loading()
        loading.asked(iterator._sampler_iter, indices, self._serials)

    def failed(self, iterator: Any) -> None:
        """An iterator has raised instead of giving a batch."""
        loading = self._known.get(iterator)
        if loading is not None and loading.waiting:
            loading.waiting.popleft()

    def of(self, iterator: Any) -> Loading | None:
        """What is known of an iterator."""
        return self._known.get(iterator)

    def given(self, iterator: Any) -> tuple[np.ndarray, Hashable] | str | None:
        """The indices of the batch just given and the pass of which it is; why they are not known; None: not followed.

        A pass is one iteration over the sampler, or where that goes on for longer as many examples as the dataset has.
        """
        loading = self._known.get(iterator)
        if loading is None or not loading.waiting:
            return None
        indices = loading.waiting.popleft()
        from torch.utils.data.dataloader import _DatasetKind

        if iterator._dataset_kind == _DatasetKind.Iterable:
            return "the examples of an iterable dataset have no indices"
        if not getattr(iterator, "_in_order", True) and iterator._num_workers > 1:
            return "a DataLoader with in_order=False does not tell which batch it gives"
        found = np.atleast_1d(np.asarray(indices))
        try:
            length = len(iterator._dataset)
        except Exception:
            length = 0
        turn = loading.given // length if length else 0
        loading.given += len(found)
        return found, (loading.serial, turn)
