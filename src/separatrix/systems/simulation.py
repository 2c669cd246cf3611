"""Trajectories of systems: flows, maps and delay systems, in batches over initial conditions and parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from separatrix.runs.errors import UsageError
from separatrix.systems._delays import delayed_states
from separatrix.systems._iteration import iterated_states
from separatrix.systems._single import LARGEST, single_states
from separatrix.systems._steps import Stepper
from separatrix.systems._stiff import stiff_states
from separatrix.systems.errors import EscapeError
from separatrix.systems.system import System, Values
from separatrix.systems.trajectory import Trajectory

TOLERANCE = 1e-9
"""Relative and absolute error of a step, unless told otherwise."""
SPREAD = 0.05
"""How far copies start apart before they settle, as a share of the size of the initial state."""


def simulate(
    system: System,
    points: int,
    *,
    points_per_period: float = 100.0,
    dt: float | None = None,
    initial: np.ndarray | Sequence[float] | None = None,
    copies: int | None = None,
    parameters: Values | None = None,
    transient: float = 0.0,
    noise: float = 0.0,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    stiff: bool | None = None,
) -> Trajectory:
    """Follow a system from its initial state, or several copies of it from states and with parameters of their own.

    Points are `dt` apart: the dominant period over `points_per_period` unless given, 1 for maps. `initial` has shape
    (dimension) or (copy, dimension), by default the system's own state; parameters are numbers, or arrays with one
    value a copy. With `copies` alone each copy starts at the state that a small random displacement settles to over ten
    periods. What happens in the first `transient` time units is left out. `noise` is the standard deviation of what is
    added to each value afterwards, as a share of the variable's standard deviation along the trajectory. `tolerance`
    bounds the error of a step relative to the state (and absolutely, for states below 1); with `stiff` (the system's
    own property by default) an implicit method is used, a copy at a time.

    Raises:
        UsageError: points, intervals, shapes or shares do not fit.
        DescriptionError: a parameter is unknown or not finite, or the period is needed and not known.
        EscapeError: a trajectory leaves every bound.
        IntegrationError: a trajectory cannot be followed with steps of any use.
    """
    if points < 1:
        raise UsageError(f"a trajectory needs at least one point, not {points}")
    interval = interval_of(system, dt, points_per_period)
    if not (0.0 <= transient < np.inf and 0.0 <= noise < np.inf):
        raise UsageError(f"the transient ({transient}) and the noise ({noise}) must be finite and not negative")
    if not 1e-14 <= tolerance <= 1e-2:
        raise UsageError(f"the tolerance must lie between 1e-14 and 0.01, not {tolerance}")
    values = system.values(parameters)
    generator = np.random.default_rng(seed)
    states = initial_states(system, initial, copies, values, generator, tolerance)
    if system.kind == "map":
        times = np.arange(points) + float(round(transient))
        found = iterated_states(system, states, round(transient), points, values)
    else:
        times = transient + interval * np.arange(points)
        stiff = system.stiff if stiff is None else stiff
        if system.kind == "delay":
            found = delayed_states(system, states, times, values, tolerance)
        elif stiff:
            found = stiff_states(system, states, times, values, tolerance)
        else:
            found = states_at(system, states, times, values, tolerance)
    if noise:
        spread = found.std(axis=1, keepdims=True)
        found = found + noise * spread * generator.standard_normal(found.shape)
    return Trajectory(system, times, found, interval)


def states_at(
    system: System,
    states: Float[np.ndarray, "copy dimension"],
    times: Float[np.ndarray, " time"],
    values: Values,
    tolerance: float,
) -> Float[np.ndarray, "copy time dimension"]:
    """States of a flow at increasing times, which start at 0 or later, by the explicit method of order 8.

    Raises:
        EscapeError: a trajectory leaves every bound.
        IntegrationError: a trajectory cannot be followed with steps of any use.
    """
    if len(states) == 1 and system.dimension <= LARGEST:
        return single_states(system, states[0], times, values, tolerance)[None]
    found = np.empty((len(times), system.dimension, len(states)))
    stepper = Stepper(
        system.program.rows(values),
        np.ascontiguousarray(states.T),
        name=system.name,
        relative=tolerance,
        absolute=tolerance,
    )
    done = int(np.searchsorted(times, 0.0, side="right"))
    found[:done] = states.T
    while done < len(times):
        stepper.step(times[-1])
        reached = done
        while reached < len(times) and times[reached] <= stepper.time:
            reached += 1
        if reached > done:
            found[done:reached] = stepper.dense(times[done:reached], system.dimension)
            done = reached
    return np.ascontiguousarray(found.transpose(2, 0, 1))


def interval_of(system: System, dt: float | None, points_per_period: float) -> float:
    """Time between points: `dt`, or the dominant period over the points per period; 1 for a map.

    Raises:
        UsageError: it is not positive and finite.
    """
    if system.kind == "map":
        return 1.0
    if not (0.0 < points_per_period < np.inf):
        raise UsageError(f"points per period must be positive and finite, not {points_per_period}")
    interval = system.period / points_per_period if dt is None else float(dt)
    if not 0.0 < interval < np.inf:
        raise UsageError(f"the interval between points must be positive and finite, not {interval}")
    return interval


def initial_states(
    system: System,
    initial: np.ndarray | Sequence[float] | None,
    copies: int | None,
    values: Values,
    generator: np.random.Generator,
    tolerance: float,
) -> Float[np.ndarray, "copy dimension"]:
    """The states that copies start from, as `simulate` says.

    Raises:
        UsageError: shapes do not fit, or a value is not finite.
    """
    given = np.asarray(system.initial if initial is None else initial, dtype=np.float64)
    if given.ndim not in (1, 2) or given.shape[-1] != system.dimension:
        raise UsageError(
            f"initial states of system {system.name} have shape ({system.dimension},) or (copies, {system.dimension}),"
            f" not {given.shape}"
        )
    if not np.isfinite(given).all():
        raise UsageError(f"initial states of system {system.name} must be finite numbers")
    sizes = {
        len(each) for each in (np.atleast_1d(value) for value in values.values()) if each.ndim == 1 and len(each) > 1
    }
    sizes |= {len(given)} if given.ndim == 2 else set()
    sizes |= {copies} if copies is not None else set()
    if len(sizes) > 1 or min(sizes, default=1) < 1:
        raise UsageError(f"initial states, parameters and copies disagree on the number of copies: {sorted(sizes)}")
    count = max(sizes, default=1)
    if copies is None or initial is not None:
        return np.array(np.broadcast_to(given, (count, system.dimension)))
    return settled(system, count, generator, values=values, tolerance=tolerance)


def settled(
    system: System,
    count: int,
    generator: np.random.Generator,
    *,
    values: Values | None = None,
    tolerance: float = TOLERANCE,
    periods: float = 10.0,
) -> Float[np.ndarray, "copy dimension"]:
    """States that random displacements of the system's own initial state settle to.

    Maps, whose basins may be narrow, and conservative flows, which have no attractor to settle to, are not displaced:
    their states are those of `along`.

    Raises:
        EscapeError: a displaced state does not come back.
    """
    values = system.values(values)
    if system.conservative or system.kind == "map":
        return along(system, count, generator, values=values, tolerance=tolerance)
    start = np.array(system.initial)
    size = SPREAD * max(float(np.abs(start).max()), 1e-3)
    displacement = np.minimum(size, SPREAD * np.abs(start) + 1e-3 * size)
    free = np.array([name != system.phase for name in system.variables])
    states: np.ndarray = start + displacement * free * generator.uniform(-1.0, 1.0, (count, system.dimension))
    if system.kind == "delay":
        return states
    end = np.array([periods * system.period])
    if system.stiff:
        return stiff_states(system, states, end, values, tolerance)[:, 0]
    return states_at(system, states, end, values, tolerance)[:, 0]


def along(
    system: System,
    count: int,
    generator: np.random.Generator,
    *,
    values: Values | None = None,
    tolerance: float = TOLERANCE,
    spacing: float = 1.0,
) -> Float[np.ndarray, "copy dimension"]:
    """States at random times of the trajectory from the initial state, `spacing` periods apart on average.

    A map's are ten times `spacing` iterations apart, after the first hundred.

    Raises:
        EscapeError: the trajectory leaves every bound.
    """
    if system.kind == "map":
        orbit = iterated_states(
            system, np.array([system.initial]), 100, round(10 * spacing * count) + 1, system.values(values)
        )
        chosen: np.ndarray = generator.choice(orbit[0], count, replace=False)
        return chosen
    span = spacing * count * system.period
    times = np.sort(generator.uniform(0.0, span, count)) + system.period
    follow = stiff_states if system.stiff else states_at
    states = follow(system, np.array([system.initial]), times, system.values(values), tolerance)[0]
    found: np.ndarray = generator.permutation(states)
    return found


def scattered(
    system: System,
    count: int,
    generator: np.random.Generator,
    *,
    values: Values | None = None,
    tolerance: float = TOLERANCE,
    periods: float = 10.0,
) -> Float[np.ndarray, "copy dimension"]:
    """States of the attractor that do not follow one another: those of `along`, displaced, and settled again.

    Without the displacement a copy would pass where another one has been, and their means would not be independent. It
    is a twentieth of the way to another state for flows that settle, and a thousandth for maps and conservative flows,
    which need not come back: copies of a weakly chaotic one stay alike for longer. Where a displaced state leaves its
    basin, a tenth and a hundredth of that are tried.

    Raises:
        EscapeError: a displaced state leaves every bound even then.
    """
    values = system.values(values)
    states = along(system, count, generator, values=values, tolerance=tolerance)
    if count == 1:
        return states
    share = 1e-3 if system.kind == "map" or system.conservative else SPREAD
    free = np.array([name != system.phase for name in system.variables])
    way = free * (np.roll(states, 1, axis=0) - states)
    follow = stiff_states if system.stiff else states_at
    for attempt in range(3):
        moved = states + share * 0.1**attempt * way
        try:
            if system.kind == "map":
                return iterated_states(system, moved, 100, 1, values)[:, 0]
            return follow(system, moved, np.array([periods * system.period]), values, tolerance)[:, 0]
        except EscapeError:
            if attempt == 2:
                raise
    raise AssertionError("the last attempt returns or raises")
