"""Models of dynamical systems, learnt from trajectories: fit, forecast, analyse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from separatrix.reconstruct.errors import ForecastError, TrajectoryError
from separatrix.reconstruct.model import Analysis, Cycle, Model, Reconstruction, Reconstructor
from separatrix.reconstruct.scaling import Scaling
from separatrix.reconstruct.trajectories import Trajectories, trajectories
from separatrix.runs.discovery import members
from separatrix.runs.errors import UnknownMemberError
from separatrix.runs.paper import Paper
from separatrix.runs.settings import Setting, Settings

if TYPE_CHECKING:
    from separatrix.reconstruct.trajectories import Data

__all__ = [
    "Analysis",
    "Cycle",
    "ForecastError",
    "Model",
    "Paper",
    "Reconstruction",
    "Reconstructor",
    "Scaling",
    "Setting",
    "Settings",
    "Trajectories",
    "TrajectoryError",
    "find_reconstructor",
    "fit",
    "reconstructors",
    "trajectories",
]

ENTRY_POINTS = "separatrix.reconstructors"
"""The entry-point group under which other packages offer reconstructors."""


def reconstructors() -> dict[str, Reconstructor]:
    """Every reconstructor by name, those of other installed packages included."""
    return dict(sorted(members(__name__, Reconstructor, ENTRY_POINTS).items()))


def find_reconstructor(name: str) -> Reconstructor:
    """The reconstructor of that name.

    Raises:
        UnknownMemberError: there is none.
    """
    known = reconstructors()
    if name not in known:
        raise UnknownMemberError(f"there is no reconstructor {name!r}: choose from {', '.join(known) or 'none'}")
    return known[name]


def fit(
    data: Data | Trajectories,
    model: str = "ndvar",
    *,
    dt: float | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Reconstruction:
    """Learn a system from data: whatever `trajectories` takes, or trajectories.

    `model` is the name of a reconstructor and `settings` are its own; equal arguments give an equal result.

    Raises:
        UnknownMemberError: there is no such model.
        SettingError: a setting is unknown or outside its range.
        TrajectoryError: the data are no evenly sampled trajectories, or too few.
        MissingExtraError: packages that the model needs are not installed.
    """
    reconstructor = find_reconstructor(model)
    chosen = reconstructor.complete(settings)
    given = data if isinstance(data, Trajectories) else trajectories(data, dt, names=names)
    if isinstance(data, Trajectories) and dt is not None and dt != data.dt:
        raise TrajectoryError(f"dt={dt:g} contradicts the trajectories' own {data.dt:g}: leave dt out")
    return reconstructor.fit(given, chosen, seed)
