"""Piecewise-linear maps: orbits, all that can be solved in closed form (fixed points, cycles), Lyapunov exponents."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Complex, Float

_ALL_PATTERNS = 12  # units up to which every region is looked at: 4096 linear systems
_CLOSE = 1e-6  # points of cycles that are the same, as a share of their size


@dataclasses.dataclass(frozen=True)
class PiecewiseLinearMap:
    """The map z' = A z + V max(W z + h, 0) + b, linear in each region in which the same units are active.

    `linear` is A, `outward` V, `inward` W, `threshold` h and `bias` b. A shallow piecewise-linear network has all of
    these (Hess, Monfared, Brenner and Durstewitz 2023, arXiv:2306.04406, section 3); an almost-linear one has W = the
    last rows of the identity (Brenner, Hemmer, Monfared and Durstewitz 2024, arXiv:2410.14240, section 3).
    """

    linear: Float[np.ndarray, "state state"]
    outward: Float[np.ndarray, "state unit"]
    inward: Float[np.ndarray, "unit state"]
    threshold: Float[np.ndarray, " unit"]
    bias: Float[np.ndarray, " state"]

    @property
    def units(self) -> int:
        """Rectified units, each of which cuts the space in two."""
        return len(self.threshold)

    def step(self, states: Float[np.ndarray, "*rows state"]) -> Float[np.ndarray, "*rows state"]:
        """The states one step later."""
        rectified = np.maximum(states @ self.inward.T + self.threshold, 0.0)
        following: np.ndarray = states @ self.linear.T + rectified @ self.outward.T + self.bias
        return following

    def pattern(self, states: Float[np.ndarray, "*rows state"]) -> Bool[np.ndarray, "*rows unit"]:
        """Which units are active."""
        active: np.ndarray = states @ self.inward.T + self.threshold > 0
        return active

    def jacobian(self, pattern: Bool[np.ndarray, "*rows unit"]) -> Float[np.ndarray, "*rows state state"]:
        """The derivative in the region of that pattern."""
        derivative: np.ndarray = self.linear + (self.outward * pattern[..., None, :]) @ self.inward
        return derivative

    def offset(self, pattern: Bool[np.ndarray, "*rows unit"]) -> Float[np.ndarray, "*rows state"]:
        """What the map adds in the region of that pattern: z' = J z + offset."""
        added: np.ndarray = self.bias + (pattern * self.threshold) @ self.outward.T
        return added

    def orbit(self, start: Float[np.ndarray, "batch state"], steps: int) -> Float[np.ndarray, "{steps}+1 batch state"]:
        """The states from `start` on; may overflow."""
        states = np.empty((steps + 1, *start.shape))
        states[0] = start
        for step in range(steps):
            states[step + 1] = self.step(states[step])
        return states

    def norm_bound(self) -> float:
        """A bound on the spectral norm of every derivative: that of A plus those of V and W multiplied."""
        norms = [float(np.linalg.norm(matrix, 2)) for matrix in (self.linear, self.outward, self.inward) if matrix.size]
        return norms[0] + (norms[1] * norms[2] if self.units else 0.0)


@dataclasses.dataclass(frozen=True)
class MapCycle:
    """A cycle of a piecewise-linear map: its points (period, state) in order, and the multipliers around it."""

    points: Float[np.ndarray, "period state"]
    multipliers: Complex[np.ndarray, " state"]


def lyapunov_exponents(
    system: PiecewiseLinearMap,
    start: Float[np.ndarray, "batch state"],
    steps: int,
    *,
    transient: int = 0,
    every: int = 5,
) -> Float[np.ndarray, " state"]:
    """Exponents a step, falling, from products of derivatives along free orbits; mean over the batch.

    Perturbations are made orthogonal every `every` steps (Benettin et al. 1980), after `transient` steps in which they
    align. Orbits that leave for infinity give NaN.
    """
    states, frame = start, np.broadcast_to(np.eye(start.shape[1]), (len(start), *(2 * start.shape[1:]))).copy()
    total = np.zeros(start.shape)
    for step in range(transient + steps):
        with np.errstate(over="ignore", invalid="ignore"):
            active = states @ system.inward.T + system.threshold
        frame = system.linear @ frame + system.outward @ ((active > 0)[..., None] * (system.inward @ frame))
        with np.errstate(over="ignore", invalid="ignore"):
            states = states @ system.linear.T + np.maximum(active, 0.0) @ system.outward.T + system.bias
        if (step + 1) % every == 0 or step + 1 in (transient, transient + steps):
            if not np.isfinite(states).all():
                return np.full(start.shape[1], np.nan)
            frame, triangle = np.linalg.qr(frame)
            if step + 1 > transient:
                diagonal = np.abs(np.diagonal(triangle, axis1=1, axis2=2))
                total += np.log(np.maximum(diagonal, np.finfo(np.float64).tiny))
    return np.sort(total.mean(axis=0) / steps)[::-1]


def fixed_points(
    system: PiecewiseLinearMap, starts: Float[np.ndarray, "batch state"], *, iterations: int = 40
) -> tuple[MapCycle, ...]:
    """All fixed points of a map with few units; of one with more than 12, those found from `starts`."""
    if system.units > _ALL_PATTERNS:
        return cycles(system, 1, starts, iterations=iterations)
    patterns = np.array(list(itertools.product((False, True), repeat=system.units)), dtype=bool)
    patterns = patterns.reshape(len(patterns), 1, system.units)
    points, _ = _solved(system, patterns)
    real = np.isfinite(points).all(axis=1) & (system.pattern(points) == patterns[:, 0]).all(axis=1)
    return _distinct(system, points[real], 1)


def cycles(
    system: PiecewiseLinearMap, period: int, starts: Float[np.ndarray, "batch state"], *, iterations: int = 40
) -> tuple[MapCycle, ...]:
    """Cycles of exactly that period which a search from `starts` finds; each is checked, none is promised.

    A cycle solves a linear system once the regions that it visits are known. The regions of an orbit from each start
    are tried; where the solution visits others, those are tried next, up to `iterations` times (after Eisenmann,
    Monfared, Göring and Durstewitz 2023, arXiv:2310.17561, algorithm 1). The larger the share of the attractor that
    `starts` cover, the more is found. Cycles so unstable that rounding does not lead back to their start are left out.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        patterns = system.pattern(system.orbit(starts, period)[:-1]).swapaxes(0, 1)
    found: list[np.ndarray] = []
    for _ in range(iterations):
        patterns = np.unique(patterns, axis=0)
        points, usable = _solved(system, patterns)
        points, patterns = points[usable], patterns[usable]
        with np.errstate(over="ignore", invalid="ignore"):
            orbit = system.orbit(points, period)
            visited = system.pattern(orbit[:-1]).swapaxes(0, 1)
        real = (visited == patterns).all(axis=(1, 2))
        found.extend(points[real])
        going = ~real & np.isfinite(orbit).all(axis=(0, 2))
        patterns = visited[going]
        if not len(patterns):
            break
    return _distinct(system, np.array(found).reshape(len(found), len(system.bias)), period)


def _solved(
    system: PiecewiseLinearMap, patterns: Bool[np.ndarray, "batch period unit"]
) -> tuple[Float[np.ndarray, "batch state"], Bool[np.ndarray, " batch"]]:
    """First points of the cycles through those regions, and whether the linear system has one solution."""
    size = len(system.bias)
    product = np.broadcast_to(np.eye(size), (len(patterns), size, size))
    offset = np.zeros((len(patterns), size))
    for each in patterns.swapaxes(0, 1):
        jacobian = system.jacobian(each)
        product = jacobian @ product
        offset = (jacobian @ offset[..., None])[..., 0] + system.offset(each)
    matrix = np.eye(size) - product
    usable = np.array(np.isfinite(matrix).all(axis=(1, 2)))
    usable[usable] = np.linalg.cond(matrix[usable]) < 1 / np.finfo(np.float64).eps
    points = np.full((len(patterns), size), np.nan)
    points[usable] = np.linalg.solve(matrix[usable], offset[usable][..., None])[..., 0]
    return points, usable


def _distinct(
    system: PiecewiseLinearMap, starts: Float[np.ndarray, "batch state"], period: int
) -> tuple[MapCycle, ...]:
    """The cycles through `starts`, each once and with no shorter period, by their first coordinate."""
    kept: list[MapCycle] = []
    for start in starts[np.lexsort(starts.T[::-1])] if len(starts) else starts:
        points, after = np.split(system.orbit(start[None], period)[:, 0], [period])
        scale = _CLOSE * max(1.0, float(np.abs(points).max()))
        if np.abs(after - start).max() > scale:  # so unstable that rounding leads away from it within a period
            continue
        shorter = [n for n in range(1, period) if period % n == 0 and np.abs(points[n] - start).max() < scale]
        if shorter or any(np.abs(cycle.points - start).max(axis=1).min() < scale for cycle in kept):
            continue
        kept.append(MapCycle(points, multipliers(system, points)))
    return tuple(kept)


def multipliers(system: PiecewiseLinearMap, points: Float[np.ndarray, "period state"]) -> Complex[np.ndarray, " state"]:
    """Eigenvalues of the derivative along those points, by falling size."""
    product = np.eye(points.shape[1])
    for jacobian in system.jacobian(system.pattern(points)):
        product = jacobian @ product
    values = np.linalg.eigvals(product).astype(np.complex128)
    return values[np.argsort(-np.abs(values), kind="stable")]


def recurrences(
    orbit: Float[np.ndarray, "time state"], periods: Sequence[int], count: int
) -> dict[int, Float[np.ndarray, "found state"]]:
    """For each period the `count` states of an orbit that come closest to themselves after it: good starts."""
    found = {}
    for period in periods:
        gaps = np.linalg.norm(orbit[period:] - orbit[:-period], axis=1)
        found[period] = orbit[np.argsort(gaps, kind="stable")[:count]]
    return found
