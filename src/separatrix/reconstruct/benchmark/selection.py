"""Which systems and models are compared when nobody says."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from separatrix.reconstruct import find_reconstructor, reconstructors
from separatrix.runs.errors import MissingExtraError

DEFAULT_SYSTEMS = (
    "Aizawa",
    "Arneodo",
    "Bouali",
    "BurkeShaw",
    "Chen",
    "Chua",
    "Dadras",
    "Finance",
    "Hadley",
    "Halvorsen",
    "HastingsPowell",
    "Lorenz",
    "Lorenz84",
    "NoseHoover",
    "RabinovichFabrikant",
    "Rossler",
    "Rucklidge",
    "SprottA",
    "SprottB",
    "Thomas",
)
"""Flows of three dimensions from many fields, polynomial and not, weakly and strongly chaotic."""

_PACKAGES = {"reconstruct": ("pysindy", "torchdiffeq")}


def usable_models(names: Sequence[str] | None = None) -> list[str]:
    """These models, or all whose packages are installed.

    Raises:
        UnknownMemberError: there is no model of a name.
        MissingExtraError: a model that was named needs packages that are not installed.
    """
    if names is None:
        return [name for name, member in reconstructors().items() if not _missing(member.extra)]
    for name in names:
        missing = _missing(find_reconstructor(name).extra)
        if missing:
            extra = find_reconstructor(name).extra
            raise MissingExtraError(f"model {name} needs {missing[0]}: pip install 'separatrix[{extra}]'")
    return list(names)


def _missing(extra: str) -> list[str]:
    return [package for package in _PACKAGES.get(extra, ()) if importlib.util.find_spec(package) is None]
