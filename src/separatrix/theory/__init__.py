"""Solvable models of learning: what a training should do, in the names and units of a recording."""

from __future__ import annotations

from separatrix.runs.discovery import members
from separatrix.runs.errors import UnknownMemberError
from separatrix.theory.comparing import Residual, compare, write
from separatrix.theory.theory import (
    Band,
    Curves,
    Law,
    Paper,
    Prediction,
    Setting,
    Settings,
    Simulation,
    Theory,
    TheoryError,
)

__all__ = [
    "Band",
    "Curves",
    "Law",
    "Paper",
    "Prediction",
    "Residual",
    "Setting",
    "Settings",
    "Simulation",
    "Theory",
    "TheoryError",
    "compare",
    "find_theory",
    "theories",
    "write",
]

ENTRY_POINTS = "separatrix.theories"
"""The entry-point group under which other packages offer theories."""


def theories() -> dict[str, Theory]:
    """Every theory by name, those of other installed packages included."""
    return dict(sorted(members(__name__, Theory, ENTRY_POINTS).items()))


def find_theory(name: str) -> Theory:
    """The theory of that name.

    Raises:
        UnknownMemberError: there is none.
    """
    known = theories()
    if name not in known:
        raise UnknownMemberError(f"there is no theory {name!r}: choose from {', '.join(known) or 'none'}")
    return known[name]
