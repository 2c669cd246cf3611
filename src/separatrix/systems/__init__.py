"""Dynamical systems: a catalogue of chaotic flows and maps, their trajectories, exponents and dimensions."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from separatrix.runs.errors import UnknownMemberError
from separatrix.systems.catalogue import catalogue
from separatrix.systems.dimensions import Dimension, correlation_dimension, kaplan_yorke
from separatrix.systems.errors import DescriptionError, EscapeError, IntegrationError
from separatrix.systems.lattices import lattice, lorenz96
from separatrix.systems.lyapunov import Spectrum, lyapunov_spectrum
from separatrix.systems.measures import dominant_period, histogram_distance, permutation_entropy, power_spectrum
from separatrix.systems.recording import write
from separatrix.systems.sections import Section, crossings
from separatrix.systems.simulation import interval_of, simulate
from separatrix.systems.stochastic import simulate_stochastic
from separatrix.systems.system import Facts, System
from separatrix.systems.trajectory import Trajectory

__all__ = [
    "DescriptionError",
    "Dimension",
    "EscapeError",
    "Facts",
    "IntegrationError",
    "Section",
    "Spectrum",
    "System",
    "Trajectory",
    "correlation_dimension",
    "crossings",
    "dominant_period",
    "find_system",
    "histogram_distance",
    "interval_of",
    "kaplan_yorke",
    "lorenz96",
    "lyapunov_spectrum",
    "permutation_entropy",
    "power_spectrum",
    "simulate",
    "simulate_stochastic",
    "systems",
    "write",
]


def systems() -> Mapping[str, System]:
    """Every system of the catalogue by name."""
    return catalogue()


def find_system(name: str) -> System:
    """The system of that name or alias; case, spaces, hyphens and underscores do not matter.

    Lorenz96x40 is the ring of 40 sites, and of any other number likewise.

    Raises:
        UnknownMemberError: there is none.
        UsageError: a ring has fewer than four sites.
    """
    known = {_plain(each): each for each in catalogue()} | {
        _plain(alias): each for alias, each in catalogue().aliases.items()
    }
    wanted = _plain(name)
    if wanted in known:
        return catalogue()[known[wanted]]
    if ring := lattice(wanted):
        return ring
    close = difflib.get_close_matches(wanted, known, n=3)
    hint = f"did you mean {', '.join(known[each] for each in close)}?" if close else "see `separatrix system list`"
    raise UnknownMemberError(f"there is no system {name!r}: {hint}")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
