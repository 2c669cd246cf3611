"""The labels along one dimension of a run and the positions that they stand at."""

from __future__ import annotations


class Labels:
    """Labels by position. Those that are their own position, as indices of a dataset are, are kept as a count."""

    def __init__(self) -> None:
        self._numbered = 0
        self._others: dict[str, int] = {}

    def __len__(self) -> int:
        return self._numbered + len(self._others)

    @property
    def numbered(self) -> int | None:
        """How many labels there are if each is its own position, from "0" on; else None."""
        return None if self._others else self._numbered

    def position(self, label: str) -> int | None:
        """Where `label` stands; None if it is new."""
        if label.isdecimal() and len(label) < 18 and (number := int(label)) < self._numbered and str(number) == label:
            return number
        return self._others.get(label)

    def append(self, label: str) -> int:
        """Add a label that is new; its position."""
        position = len(self)
        if not self._others and label == str(position):
            self._numbered += 1
        else:
            self._others[label] = position
        return position

    def number(self, count: int) -> None:
        """Add what is missing of the labels "0" to `count - 1`, where `numbered` is not None."""
        self._numbered = max(self._numbered, count)
