"""Dynamical systems: a catalogue of chaotic flows and maps, their trajectories, exponents and dimensions."""

from __future__ import annotations

from collections.abc import Mapping

from separatrix.runs.errors import UnknownMemberError
from separatrix.systems.catalogue import catalogue
from separatrix.systems.errors import DescriptionError, EscapeError, IntegrationError
from separatrix.systems.simulation import simulate
from separatrix.systems.system import Facts, System
from separatrix.systems.trajectory import Trajectory

__all__ = [
    "DescriptionError",
    "EscapeError",
    "Facts",
    "IntegrationError",
    "System",
    "Trajectory",
    "find_system",
    "simulate",
    "systems",
]


def systems() -> Mapping[str, System]:
    """Every system of the catalogue by name."""
    return catalogue()


def find_system(name: str) -> System:
    """The system of that name or alias; case, spaces, hyphens and underscores do not matter.

    Raises:
        UnknownMemberError: there is none.
    """
    wanted = _plain(name)
    for system in catalogue().values():
        if wanted in map(_plain, (system.name, *system.aliases)):
            return system
    import difflib

    close = difflib.get_close_matches(wanted, {_plain(each): each for each in catalogue()}, n=3)
    known = {_plain(each): each for each in catalogue()}
    hint = f"did you mean {', '.join(known[each] for each in close)}?" if close else "see `separatrix system list`"
    raise UnknownMemberError(f"there is no system {name!r}: {hint}")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
