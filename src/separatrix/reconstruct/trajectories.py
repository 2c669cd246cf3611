"""Trajectories to learn from: evenly sampled, finite, of one set of variables; whatever they come from."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from separatrix.reconstruct.errors import TrajectoryError
from separatrix.runs import Run
from separatrix.systems import Trajectory

if TYPE_CHECKING:
    import xarray

    Data = Run | Trajectory | xarray.DataArray | np.ndarray | Sequence[np.ndarray]
    """What trajectories can be made of."""

_TIME_DIMS = ("time", "step")
_SYSTEM = "system"  # the fact of a simulated run that tells its variables in order
_EVEN = 1e-6  # times written as decimal text are even to that share of the sampling interval


@dataclasses.dataclass(frozen=True)
class Trajectories:
    """Evenly sampled trajectories of one set of variables; lengths may differ.

    `parts` holds an array (time, variable), float64 and finite, for each trajectory; `dt` is the time between samples,
    in the units that rates and exponents are to have; `names` are those of the variables.
    """

    parts: tuple[np.ndarray, ...]
    dt: float
    names: tuple[str, ...]

    @property
    def values(self) -> Float[np.ndarray, "trajectory time variable"]:
        """All trajectories as one array.

        Raises:
            TrajectoryError: their lengths differ.
        """
        if len(set(self.lengths)) > 1:
            raise TrajectoryError(
                f"the trajectories have lengths {_few(self.lengths)}: cut them to one length, or use parts or windows"
            )
        return np.stack(self.parts)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Samples in each trajectory."""
        return tuple(len(part) for part in self.parts)

    @property
    def points(self) -> Float[np.ndarray, "point variable"]:
        """The samples of all trajectories, one after the other."""
        return np.concatenate(self.parts)

    def windows(self, length: int) -> Float[np.ndarray, "window length variable"]:
        """Every stretch of `length` consecutive samples of a trajectory, in order; `windows(2)` are snapshot pairs.

        Raises:
            TrajectoryError: no trajectory is that long.
        """
        long = [part for part in self.parts if len(part) >= length]
        if not long:
            raise TrajectoryError(
                f"the longest trajectory has {max(self.lengths)} samples and {length} are needed: give longer ones,"
                " or ask for fewer lags"
            )
        views = [np.lib.stride_tricks.sliding_window_view(part, length, axis=0).swapaxes(1, 2) for part in long]
        return np.concatenate(views)


def trajectories(data: Data, dt: float | None = None, *, names: Sequence[str] | None = None) -> Trajectories:
    """Trajectories of a run, a simulation, a labelled array, an array, or a list of arrays of any lengths.

    An array is (time,), (time, variable) or (trajectory, time, variable). A labelled array has a dimension `time` or
    `step`, whose coordinate must be even and gives the sampling interval, at most one further dimension for the
    variables, and may have `trajectory`. Of a run, `names` are the series to use (when none is named the variables of
    a simulated system, else all): scalars, or vectors whose labels become variables, at the same steps; copies become
    trajectories. A run whose configuration holds `dt` says how much time passes from step to step, else a step is the
    unit of time. `names` of other data name the variables.

    A variable that never changes is kept, with one warning: it says nothing, and models must not divide by its spread.

    Raises:
        TrajectoryError: samples are missing, uneven, not finite or fewer than two; `dt` is not positive, missing, or
            not that of the data; variables differ or names do not fit.
    """
    if dt is not None and not (math.isfinite(dt) and dt > 0):
        raise TrajectoryError(f"the sampling interval dt={dt} is no positive time: give the time between two samples")
    if isinstance(data, Run):
        parts, own, found = _of_run(data, names)
    elif isinstance(data, Trajectory):
        parts, own, found = [np.array(each) for each in data.values], data.dt, _named(data.variables, names)
    elif hasattr(data, "dims") and hasattr(data, "coords"):
        parts, own, found = _of_labelled(data)
        found = _named(found, names)
    else:
        parts, own = _of_arrays(data), None
        found = _named(tuple(f"x{index}" for index in range(parts[0].shape[1])), names)
    interval = own if dt is None else dt
    if interval is None:
        raise TrajectoryError("the data do not say how far apart in time samples are: give dt")
    if own is not None and abs(interval - own) > _EVEN * own:
        raise TrajectoryError(f"dt={interval:g} contradicts the data's own {own:g}: leave dt out, or mend the data")
    _check(parts, found)
    return Trajectories(tuple(parts), float(interval), found)


def _named(found: tuple[str, ...], names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return found
    if len(names) != len(found) or len(set(names)) < len(names):
        raise TrajectoryError(f"there are {len(found)} variables and the names {list(names)}: give each one its own")
    return tuple(names)


def _of_arrays(data: Any) -> list[np.ndarray]:
    try:
        if isinstance(data, Sequence) and len(data) and np.ndim(data[0]) > 0:
            given = [np.asarray(each, dtype=np.float64) for each in data]
        else:
            whole = np.asarray(data, dtype=np.float64)
            given = list(whole) if whole.ndim == 3 else [whole]
    except (TypeError, ValueError) as error:
        raise TrajectoryError(f"the data are no numbers ({error}): give arrays (time, variable)") from None
    shaped = [each[:, None] if each.ndim == 1 else each for each in given]
    if not shaped or any(each.ndim != 2 or not each.shape[1] for each in shaped):
        shapes = _few([each.shape for each in given])
        raise TrajectoryError(f"arrays have shapes {shapes}: give (time,), (time, variable) or a list of those")
    if len({each.shape[1] for each in shaped}) > 1:
        counts = _few([each.shape[1] for each in shaped])
        raise TrajectoryError(f"the trajectories have {counts} variables: give all the same ones")
    return [np.array(each) for each in shaped]


def _of_labelled(data: Any) -> tuple[list[np.ndarray], float | None, tuple[str, ...]]:
    time = next((dim for dim in _TIME_DIMS if dim in data.dims), None)
    others = [dim for dim in data.dims if dim not in (time, "trajectory")]
    if time is None or len(others) > 1:
        raise TrajectoryError(
            f"the array has dimensions {tuple(data.dims)}: it needs time (or step), and at most one for the variables"
        )
    order = [*(["trajectory"] if "trajectory" in data.dims else []), time, *others]
    values = np.asarray(data.transpose(*order).values, dtype=np.float64)
    values = values if others else values[..., None]
    parts = list(values) if "trajectory" in data.dims else [values]
    found: tuple[str, ...]
    if not others:
        found = (str(data.name or "x0"),)
    elif others[0] in data.coords:
        found = tuple(str(label) for label in data.coords[others[0]].values)
    else:
        found = tuple(f"x{index}" for index in range(data.sizes[others[0]]))
    own = _interval(np.asarray(data.coords[time].values), time) if time in data.coords else None
    return [np.array(part) for part in parts], own, found


def _of_run(run: Run, names: Sequence[str] | None) -> tuple[list[np.ndarray], float | None, tuple[str, ...]]:
    simulated = run.meta.get(_SYSTEM, {})
    series = [run.series(name) for name in (names or simulated.get("variables") or run.names())]
    if not series:
        raise TrajectoryError(f"{run.path} holds no series: record or simulate one first")
    for each in series[1:]:
        if not np.array_equal(each.steps, series[0].steps):
            raise TrajectoryError(
                f"{series[0].name} and {each.name} of {run.path} have different steps: name series that share theirs"
            )
    interval = float(run.config.get("dt", 1.0)) * _interval(series[0].steps, "step")
    if all(tuple(each.coords) == ("copy",) for each in series) and len({each.values.shape for each in series}) == 1:
        values = np.stack([each.values for each in series], axis=-1).astype(np.float64)
        return list(values.swapaxes(0, 1)), interval, tuple(each.name for each in series)
    labels: list[str] = []
    for each in series:
        labels += [label for coordinate in each.coords.values() for label in coordinate] or [each.name]
    if any(len(each.coords) > 1 for each in series) or len(set(labels)) < len(labels):
        raise TrajectoryError(f"the series of {run.path} have several dimensions or share labels: name some of them")
    columns = [each.values.reshape(len(each.steps), -1).astype(np.float64) for each in series]
    return [np.hstack(columns)], interval, tuple(labels)


def _interval(times: np.ndarray, dim: str) -> float:
    """The spacing of even times."""
    if np.issubdtype(times.dtype, np.datetime64) or np.issubdtype(times.dtype, np.timedelta64):
        times = (times - times[0]) / np.timedelta64(1, "s")
    if len(times) < 2:
        raise TrajectoryError(f"there is {len(times)} sample along {dim}: a trajectory needs at least two")
    gaps = np.diff(np.asarray(times, dtype=np.float64))
    usual = float(np.median(gaps))
    uneven = np.flatnonzero(~(np.abs(gaps - usual) <= _EVEN * abs(usual)))
    if uneven.size or not usual > 0:
        where = int(uneven[0]) if uneven.size else 0
        raise TrajectoryError(
            f"{dim} goes from {times[where]:g} to {times[where + 1]:g} where it mostly advances by {usual:g}: resample"
            " the data evenly, or give the stretches between gaps as a list"
        )
    return usual


def _check(parts: Sequence[np.ndarray], names: tuple[str, ...]) -> None:
    for index, part in enumerate(parts):
        if len(part) < 2:
            raise TrajectoryError(f"trajectory {index} has {len(part)} samples: a trajectory needs at least two")
        if not np.isfinite(part).all():
            time, variable = np.argwhere(~np.isfinite(part))[0]
            raise TrajectoryError(
                f"{names[variable]} of trajectory {index} is {part[time, variable]} at sample {time}: cut it there, or"
                " give the stretches between missing samples as a list"
            )
    spread = np.ptp(np.concatenate(parts), axis=0)
    if constant := [name for name, width in zip(names, spread, strict=True) if width == 0]:
        warnings.warn(f"{', '.join(constant)} never changes: it is kept and says nothing", RuntimeWarning, stacklevel=3)


def _few(values: Sequence[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:4])
    return shown + (", ..." if len(values) > 4 else "")
