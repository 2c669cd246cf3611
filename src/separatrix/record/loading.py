"""Follows DataLoaders: which indices each batch that they give was fetched by, whatever the sampler and the workers."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Hashable
from typing import Any

import numpy as np


class Loading:
    """One iterator of a DataLoader: the indices of batches that it has not given yet, by the number of the batch."""

    def __init__(self) -> None:
        self.waiting: dict[int, Any] = {}
        self.serial = 0
        self.given = 0
        self.last: tuple[object, Hashable] | None = None
        """Where the batch given last was from, and the pass of which it was."""
        self._sampling: object = None

    def asked(self, sampling: object, number: int, indices: Any, serials: itertools.count[int]) -> None:
        """Indices were drawn; `sampling` is the iterator over the sampler, another one in each pass."""
        if self._sampling is not sampling:
            # Iterators with persistent workers are used again, and drop what they had fetched ahead.
            self._sampling = sampling
            self.waiting.clear()
            self.serial, self.given = next(serials), 0
        self.waiting[number] = indices


class Loadings:
    """The DataLoader iterators alive.

    With workers, an iterator numbers what it asks for and what it receives; without, it gives what it has just asked
    for. So a batch is known even if others were asked for or given while nobody listened.
    """

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Any, Loading] = weakref.WeakKeyDictionary()
        self._serials = itertools.count(1)

    def asked(self, iterator: Any, indices: Any) -> None:
        """A DataLoader's iterator has drawn the indices of a batch to come."""
        loading = self._known.get(iterator)
        if loading is None:
            loading = self._known[iterator] = Loading()
        number = iterator._send_idx if iterator._num_workers else 0
        loading.asked(iterator._sampler_iter, number, indices, self._serials)

    def of(self, iterator: Any) -> Loading | None:
        """What is known of an iterator."""
        return self._known.get(iterator)

    def given(self, iterator: Any) -> tuple[np.ndarray, Hashable] | str | None:
        """The indices of the batch just given and the pass of which it is; why they are not known; None: it has none.

        A pass is one iteration over the sampler, or where that goes on for longer as many examples as the dataset has.
        """
        from torch.utils.data.dataloader import _DatasetKind

        if iterator._dataset_kind == _DatasetKind.Iterable:
            return None
        if not getattr(iterator, "_in_order", True) and iterator._num_workers > 1:
            return "a DataLoader with in_order=False does not tell which batch it gives"
        loading = self._known.get(iterator)
        number = iterator._rcvd_idx - 1 if iterator._num_workers else 0
        if loading is None or number not in loading.waiting:
            return "a DataLoader gave a batch that it had asked for while nothing was recorded"
        indices = loading.waiting.pop(number)
        for failed in [earlier for earlier in loading.waiting if earlier < number]:
            del loading.waiting[failed]
        found = np.atleast_1d(np.asarray(indices))
        try:
            length = len(iterator._dataset)
        except Exception:
            length = 0
        turn = loading.given // length if length else 0
        loading.given += len(found)
        return found, (loading.serial, turn)
