"""A dataset whose items stay known by their indices without a DataLoader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch.utils.data

fetched: list[Callable[[Any, Any, Any], None]] = []
"""Called with the dataset, the index asked for and the item: the recording that goes on, if it follows examples."""


class Indexed(torch.utils.data.Dataset[Any]):
    """The items of a map-style dataset, unchanged; a recording learns which index each was asked for by."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        item = self.dataset[index]
        for listener in fetched:
            listener(self.dataset, index, item)
        return item

    def __iter__(self) -> Iterator[Any]:
        for index in range(len(self)):
            yield self[index]

    def __getattr__(self, name: str) -> Any:
        # Also reached while an instance is unpickled in a worker, before it has a dataset.
        if name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)


def indexed(dataset: Any) -> Indexed:
    """`dataset`, whose items a recording knows by their indices even where no DataLoader fetches them.

    The dataset is map-style: `dataset[i]` gives an item. Items are its own, and outside a recording nothing happens.

    Example:
        ``for i in order: x, y = data[i]`` with ``data = separatrix.indexed(dataset)``.
    """
    return Indexed(dataset)
