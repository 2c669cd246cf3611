"""Flows with white noise: dx = f(t, x) dt + g(t, x) dW, one independent Wiener process a variable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from separatrix.runs.errors import UsageError
from separatrix.systems.errors import DescriptionError, EscapeError
from separatrix.systems.simulation import TOLERANCE, initial_states, interval_of
from separatrix.systems.system import System, Values
from separatrix.systems.trajectory import Trajectory

Method = Literal["euler-maruyama", "heun"]
METHODS: tuple[Method, ...] = ("euler-maruyama", "heun")
_BOUND = 1e12


def simulate_stochastic(
    system: System,
    points: int,
    diffusion: Mapping[str, str | float] | float,
    *,
    method: Method = "euler-maruyama",
    substeps: int = 20,
    points_per_period: float = 100.0,
    dt: float | None = None,
    initial: np.ndarray | Sequence[float] | None = None,
    copies: int | None = None,
    parameters: Values | None = None,
    seed: int = 0,
    increments: Float[np.ndarray, "step dimension copy"] | None = None,
) -> Trajectory:
    """Follow a flow under noise, with `substeps` equal steps between points; copies and points as in `simulate`.

    `diffusion` gives g: an expression or number a variable (0 for those left out), or one number for all that are not
    the phase of a drive. `euler-maruyama` solves the equation in the sense of Ito with strong order 1/2 (1 for additive
    noise), `heun` in that of Stratonovich with strong order 1 where the noise commutes, as it does if each g depends on
    its own variable alone. `increments` are Wiener increments of variance dt/substeps to use instead of drawing them.
    Source: Kloeden and Platen (1992), Numerical Solution of Stochastic Differential Equations; Rumelin (1982).

    Raises:
        UsageError: the system is no flow, or numbers and shapes do not fit.
        DescriptionError: the diffusion speaks of unknown variables.
        EscapeError: a trajectory leaves every bound.
    """
    if system.kind != "flow":
        raise UsageError(f"noise is added to flows: system {system.name} is a {system.kind}")
    if method not in METHODS or points < 1 or substeps < 1:
        raise UsageError(
            f"give a method among {', '.join(METHODS)} (not {method}), and at least one point and substep"
            f" (not {points}, {substeps})"
        )
    interval = interval_of(system, dt, points_per_period)
    values = system.values(parameters)
    generator = np.random.default_rng(seed)
    states = np.ascontiguousarray(initial_states(system, initial, copies, values, generator, TOLERANCE).T)
    step = interval / substeps
    shape = (points - 1) * substeps, *states.shape
    if increments is not None and np.shape(increments) != shape:
        raise UsageError(f"increments have shape (steps, dimension, copies) = {shape}, not {np.shape(increments)}")
    drift = system.program.rows(values)
    noise = [system.program.expression(text, values) for text in _expressions(system, diffusion)]
    found = np.empty((points, *states.shape))
    found[0] = states
    work = np.empty((4, *states.shape))
    for i in range(shape[0]):
        time = i * step
        drawn = generator.standard_normal(states.shape) * step**0.5 if increments is None else increments[i]
        slope, spread, slope_end, spread_end = work
        drift(time, tuple(states), tuple(slope))
        _spreads(noise, time, states, spread)
        following = states + slope * step + spread * drawn
        if method == "heun":
            drift(time + step, tuple(following), tuple(slope_end))
            _spreads(noise, time + step, following, spread_end)
            following = states + 0.5 * ((slope + slope_end) * step + (spread + spread_end) * drawn)
        states = following
        if (i + 1) % substeps == 0:
            _check(system, states, time + step)
            found[(i + 1) // substeps] = states
    return Trajectory(system, interval * np.arange(points), np.ascontiguousarray(found.transpose(2, 0, 1)), interval)


def _expressions(system: System, diffusion: Mapping[str, str | float] | float) -> list[str]:
    if isinstance(diffusion, Mapping):
        if unknown := sorted(set(diffusion) - set(system.variables)):
            raise DescriptionError(
                f"system {system.name} has no variable {unknown[0]!r} to add noise to: choose from"
                f" {', '.join(system.variables)}"
            )
        given = dict(diffusion)
    else:
        given = {name: diffusion for name in system.variables if name != system.phase}
    return [str(given.get(name, 0.0)) for name in system.variables]


def _spreads(noise: Sequence[object], time: float, states: np.ndarray, out: np.ndarray) -> None:
    for function, row in zip(noise, out, strict=True):
        function(time, tuple(states), (row,))  # type: ignore[operator]


def _check(system: System, states: Float[np.ndarray, "dimension copy"], time: float) -> None:
    inside = (np.abs(states) < _BOUND).all(axis=0)
    if not inside.all():
        copy = int(np.flatnonzero(~inside)[0])
        raise EscapeError(
            f"system {system.name} escapes to infinity at t = {time:.6g} (copy {copy}): use more substeps or less"
            " noise",
            time,
            copy,
        )
