"""The papers that studies and theories come from."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Paper:
    """Where claims or formulas come from; `year` is that of its first appearance."""

    title: str
    authors: tuple[str, ...]
    year: int
    url: str = ""

    def __str__(self) -> str:
        return f"{', '.join(self.authors)} ({self.year}): {self.title}"
