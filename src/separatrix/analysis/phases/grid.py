"""Series that were measured at different steps, on one grid of steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from separatrix.analysis.trends import Floats, Track, tracks
from separatrix.runs import Run
from separatrix.runs.errors import UnknownSeriesError, UsageError
from separatrix.runs.types import CHANGE_SERIES

_DECADE = 10.0


@dataclasses.dataclass(frozen=True)
class Grid:
    """Series on common steps: `values` has shape (steps, series); `logarithmic` names those given as logarithms."""

    names: tuple[str, ...]
    steps: Int[np.ndarray, " steps"]
    values: Float[np.ndarray, " steps series"]
    logarithmic: tuple[str, ...] = ()


def common_grid(run: Run, names: Sequence[str] = (), *, points: int = 200) -> Grid:
    """Scalar series of a run on one grid of steps; all that vary unless some are named.

    The grid has `points` cells of equal width, fewer where the steps are fewer, from the latest first to the earliest
    last step of the series. A cell holds the mean of the finite values measured in it; an empty one is interpolated
    linearly between its neighbours, or holds the last value where a series is recorded only when it changes. Its step
    is its middle. A positive series that spans more than a decade is given as its natural logarithm.

    Raises:
        UnknownSeriesError: a named series is not there.
        UsageError: no scalar series varies, one that is named has labels, or they share no steps.
    """
    chosen = {name: _track(run, name) for name in names} or _varying(run)
    if not chosen:
        raise UsageError(f"the run {run.name} holds no scalar series that varies: record more, or name other series")
    first = max(int(track.steps[0]) for track in chosen.values())
    ends = [int(track.steps[-1]) for name, track in chosen.items() if name not in CHANGE_SERIES]
    last = min(ends or [int(track.steps[-1]) for track in chosen.values()])
    if last <= first:
        raise UsageError(f"the series {', '.join(chosen)} of {run.name} share no stretch of steps: name others")
    count = min(points, last - first + 1)
    edges = np.linspace(first, last + 1, count + 1)
    steps = np.floor((edges[:-1] + edges[1:] - 1) / 2).astype(np.int64)
    columns, logarithmic = [], []
    for name, track in chosen.items():
        values = _cells(track, edges, held=name in CHANGE_SERIES)
        if values.min() > 0 and values.max() > _DECADE * values.min():
            values = np.log(values)
            logarithmic.append(name)
        columns.append(values)
    return Grid(tuple(chosen), steps, np.stack(columns, axis=1), tuple(logarithmic))


def _track(run: Run, name: str) -> Track:
    if name not in run:
        raise UnknownSeriesError(f"the run {run.name} holds no series {name!r}: it holds {', '.join(run.names())}")
    found = [track.finite() for track in tracks(run, name)]
    if len(found) != 1 or not len(found[0]):
        raise UsageError(f"the series {name!r} of {run.name} has {len(found)} labels or no finite value: name a scalar")
    return found[0]


def _varying(run: Run) -> dict[str, Track]:
    scalars = {name: tracks(run, name) for name in run.names() if not run.spec(name).dims}
    finite = {name: found[0].finite() for name, found in scalars.items() if len(found) == 1}
    return {name: track for name, track in finite.items() if len(track) > 1 and np.ptp(track.values) > 0}


def _cells(track: Track, edges: Floats, *, held: bool) -> Floats:
    """One value a cell between `edges`."""
    centres = (edges[:-1] + edges[1:] - 1) / 2
    if held:
        return np.asarray(track.values[np.clip(np.searchsorted(track.steps, centres, side="right") - 1, 0, None)])
    cell = np.searchsorted(edges, track.steps, side="right") - 1
    inside = (cell >= 0) & (cell < len(centres))
    counts = np.bincount(cell[inside], minlength=len(centres))
    sums = np.bincount(cell[inside], weights=track.values[inside], minlength=len(centres))
    means = sums / np.maximum(counts, 1)
    return np.where(counts > 0, means, np.interp(centres, track.steps, track.values))
