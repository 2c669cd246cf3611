"""The labels along one dimension of a run and the positions that they stand at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

_ADD = "INSERT INTO labels VALUES(?,?,?)"
_NUMBER = (
    "INSERT INTO labels(position, dim, label) WITH RECURSIVE numbers(n) AS (SELECT ?1 UNION ALL SELECT n + 1"
    " FROM numbers WHERE n + 1 < ?2) SELECT n, ?3, CAST(n AS TEXT) FROM numbers"
)

_Statement = tuple[str, tuple[Any, ...]]


class Labels:
    """Labels by position. Those that are their own position, as indices of a dataset are, are kept as a count."""

    def __init__(self) -> None:
        self._numbered = 0
        self._others: dict[str, int] = {}

    def __len__(self) -> int:
        return self._numbered + len(self._others)

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

    def placed(
        self, dim: str, labels: Sequence[str], shown: Callable[[str], str]
    ) -> tuple[list[int], list[_Statement]]:
        """Positions of `labels`, and the statements that add the new ones to a run as `shown` gives them."""
        found: list[int] = []
        statements: list[_Statement] = []
        for label in labels:
            position = self.position(label)
            if position is None:
                text = shown(label)
                position = self.position(text)
                if position is None:
                    position = self.append(text)
                    statements.append((_ADD, (dim, position, text)))
            found.append(position)
        return found, statements

    def number(self, dim: str, count: int) -> list[_Statement] | None:
        """Make "0" to `count - 1` the first labels; what adds them to a run, or None if others stand there."""
        begun = self._numbered
        if self._others:
            return None
        if count <= begun:
            return []
        self._numbered = count
        return [(_NUMBER, (begun, count, dim))]
