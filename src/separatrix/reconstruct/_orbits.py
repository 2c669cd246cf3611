"""Fixed points, cycles and Lyapunov exponents of learnt maps."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from separatrix.reconstruct.model import Cycle

Step = Callable[[Float[np.ndarray, "batch state"]], Float[np.ndarray, "batch state"]]
Slope = Callable[[Float[np.ndarray, "batch state"]], Float[np.ndarray, "batch state state"]]

Advance = Callable[
    [Float[np.ndarray, "batch state"]], tuple[Float[np.ndarray, "batch state"], Float[np.ndarray, "batch state state"]]
]
"""States one sample later, and the derivative of that."""

_ITERATIONS = 40
_CLOSED = 1e-9  # residual, in units of the state's own, at which Newton's method has converged
_SAME = 1e-5  # distance at which two points are one


def cycles(
    step: Step, slope: Slope, starts: Float[np.ndarray, "start state"], period: int
) -> list[tuple[Float[np.ndarray, "period state"], np.ndarray]]:
    """Cycles of least period `period` that Newton's method reaches from the starts: points, and multipliers.

    States are expected in units of the data's spread. A cycle of a divisor of the period is left out, and so is one
    that is found again from another of its points.
    """
    points = starts.copy()
    identity = np.eye(points.shape[1])
    with np.errstate(all="ignore"):
        for _ in range(_ITERATIONS):
            ends, slopes = _around(step, slope, points, period)
            residual = ends - points
            good = np.isfinite(residual).all(axis=1) & np.isfinite(slopes).all(axis=(1, 2))
            points, residual, slopes = points[good], residual[good], slopes[good]
            if not len(points) or np.abs(residual).max() < _CLOSED / 100:
                break
            moves = np.array(
                [np.linalg.lstsq(identity - s, r, rcond=1e-12)[0] for s, r in zip(slopes, residual, strict=True)]
            )
            length = np.linalg.norm(moves, axis=1, keepdims=True)
            points = points + moves * np.minimum(1.0, 1.0 / np.maximum(length, 1e-300))
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for point in points:
            orbit = _orbit(step, point, period)
            closed = np.abs(step(orbit[-1:])[0] - point).max() <= _CLOSED * max(1.0, np.abs(point).max())
            if closed and not _shorter(orbit) and not any(_near(point, known) for known, _ in found):
                slopes = _around(step, slope, point[None], period)[1]
                found.append((orbit, np.linalg.eigvals(slopes[0]).astype(np.complex128)))
    return found


def _around(step: Step, slope: Slope, points: np.ndarray, period: int) -> tuple[np.ndarray, np.ndarray]:
    """Where points are after `period` steps, and the derivative of that."""
    slopes = np.broadcast_to(np.eye(points.shape[1]), (len(points), points.shape[1], points.shape[1]))
    for _ in range(period):
        slopes = slope(points) @ slopes
        points = step(points)
    return points, slopes


def _orbit(step: Step, point: np.ndarray, period: int) -> np.ndarray:
    orbit = [point]
    for _ in range(period - 1):
        orbit.append(step(orbit[-1][None])[0])
    return np.array(orbit)


def _near(point: np.ndarray, orbit: np.ndarray) -> bool:
    return bool((np.abs(orbit - point).max(axis=1) <= _SAME * max(1.0, np.abs(point).max())).any())


def _shorter(orbit: np.ndarray) -> bool:
    return any(_near(orbit[0], orbit[each : each + 1]) for each in range(1, len(orbit)) if len(orbit) % each == 0)


def found_cycles(
    step: Step,
    slope: Slope,
    starts: Float[np.ndarray, "start state"],
    periods: range,
    seen: Callable[[np.ndarray], np.ndarray],
) -> tuple[Cycle, ...]:
    """Cycles of these periods; `seen` turns states into variables in the data's units."""
    each = itertools.chain.from_iterable(cycles(step, slope, starts, period) for period in periods)
    return tuple(Cycle(seen(orbit), multipliers) for orbit, multipliers in each)


def exponents(
    step: Step,
    slope: Slope,
    start: Float[np.ndarray, " state"],
    count: int,
    dt: float,
    *,
    steps: int,
    transient: int,
) -> Float[np.ndarray, " exponent"] | None:
    """The `count` largest Lyapunov exponents of a map and its derivative; see `exponents_along`."""
    return exponents_along(
        lambda states: (step(states), slope(states)), start, count, dt, steps=steps, transient=transient
    )


def exponents_along(
    advance: Advance, start: Float[np.ndarray, " state"], count: int, dt: float, *, steps: int, transient: int
) -> Float[np.ndarray, " exponent"] | None:
    """The `count` largest Lyapunov exponents along a free run of `steps` steps after `transient` ones, in 1 / time.

    By repeated QR of the derivative (Benettin et al. 1980; Shimada & Nagashima 1979). None if the run goes astray.
    """
    state = start[None]
    with np.errstate(all="ignore"):
        for _ in range(transient):
            state = advance(state)[0]
        frame = np.linalg.qr(np.random.default_rng(0).standard_normal((state.shape[1], count)))[0]
        total = np.zeros(count)
        for _ in range(steps):
            state, slopes = advance(state)
            if not np.isfinite(slopes).all():
                return None
            frame, upper = np.linalg.qr(slopes[0] @ frame)
            total += np.log(np.maximum(np.abs(np.diagonal(upper)), 1e-300))
    return np.sort(total / (steps * dt))[::-1] if np.isfinite(state).all() else None
