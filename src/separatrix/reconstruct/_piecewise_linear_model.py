"""What reconstructions whose map is piecewise linear share: forecasts and closed-form analysis."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from separatrix.reconstruct.model import Analysis, Cycle
from separatrix.reconstruct.piecewise_linear import (
    MapCycle,
    PiecewiseLinearMap,
    cycles,
    fixed_points,
    lyapunov_exponents,
    recurrences,
)
from separatrix.reconstruct.scaling import Scaling
from separatrix.reconstruct.symbolic import SymbolicCode, symbolic_code
from separatrix.reconstruct.trajectories import Trajectories

_STARTS = 200
_ORBITS = 16
_STEPS = 2000
_TRANSIENT = 500
_LONGEST = 200  # steps of the longest cycle that is sought
_PERIODS = 8
_CANDIDATES = 20
_ITERATIONS = 10
_FEW_UNITS = 6


@dataclasses.dataclass(frozen=True)
class PiecewiseLinearModel:
    """A piecewise-linear map of states whose first coordinates are the scaled variables.

    `embedding` (state, variable) and `offset` (state,) give the state that a sample starts from; `samples` are scaled
    samples of the data, from which attractors are reached; `codes` go into the analysis.
    """

    map: PiecewiseLinearMap
    scaling: Scaling
    embedding: Float[np.ndarray, "state variable"]
    offset: Float[np.ndarray, " state"]
    samples: Float[np.ndarray, "sample variable"]
    dt: float
    codes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    history: int = 1

    @classmethod
    def of(
        cls,
        system: PiecewiseLinearMap,
        scaling: Scaling,
        trajectories: Trajectories,
        embedding: Float[np.ndarray, "state variable"] | None = None,
        offset: Float[np.ndarray, " state"] | None = None,
        **codes: Any,
    ) -> PiecewiseLinearModel:
        """The model of that map, its state the scaled variables themselves unless an embedding is given."""
        points = scaling.scaled(trajectories.points)
        size = len(system.bias)
        return cls(
            system,
            scaling,
            np.eye(size, points.shape[1]) if embedding is None else embedding,
            np.zeros(size) if offset is None else offset,
            points[np.linspace(0, len(points) - 1, _STARTS).astype(int)],
            trajectories.dt,
            codes,
        )

    def states(self, points: Float[np.ndarray, "*rows variable"]) -> Float[np.ndarray, "*rows state"]:
        """The states that samples, in the data's units, start from."""
        states: np.ndarray = self.scaling.scaled(points) @ self.embedding.T + self.offset
        return states

    def observed(self, states: Float[np.ndarray, "*rows state"]) -> Float[np.ndarray, "*rows variable"]:
        """States in the data's units."""
        return self.scaling.restored(states[..., : len(self.scaling.mean)])

    def forecast(
        self, history: Float[np.ndarray, "batch past variable"], steps: int
    ) -> Float[np.ndarray, "batch steps variable"]:
        """The samples that follow the last one."""
        orbit = self.map.orbit(self.states(history[:, -1]), steps)[1:]
        return self.observed(orbit.swapaxes(0, 1))

    def attractor(self, orbits: int = _ORBITS, steps: int = _STEPS) -> Float[np.ndarray, "time batch state"]:
        """Free orbits from the data, their transients left out; those that leave for infinity too."""
        chosen = self.samples[np.linspace(0, len(self.samples) - 1, orbits).astype(int)]
        with np.errstate(over="ignore", invalid="ignore"):
            states = self.map.orbit(chosen @ self.embedding.T + self.offset, _TRANSIENT + steps)[_TRANSIENT:]
        return states[:, np.isfinite(states).all(axis=(0, 2))]

    def code(self, orbits: int = _ORBITS, steps: int = _STEPS) -> SymbolicCode:
        """The regions that free orbits visit, as symbols."""
        return symbolic_code(list(self.map.pattern(self.attractor(orbits, steps)).swapaxes(0, 1)))

    def analyse(self) -> Analysis:
        """Fixed points, cycles, Lyapunov exponents and the share of orbits that stay bounded."""
        states = self.attractor()
        starts = self.samples @ self.embedding.T + self.offset
        if not states.shape[1]:
            points = fixed_points(self.map, starts)
            return Analysis(
                tuple(self._cycle(each) for each in points), (), codes=self.codes, notes=("every orbit leaves",)
            )
        points = fixed_points(
            self.map, np.concatenate([starts, states[:: len(states) // 50].reshape(-1, starts.shape[1])])
        )
        found: list[MapCycle] = []
        for period, near in recurrences(states[:, 0], self._periods(states[:, 0]), _CANDIDATES).items():
            found.extend(cycles(self.map, period, near, iterations=_ITERATIONS))
        exponents = lyapunov_exponents(self.map, states[-1], _STEPS, transient=100)
        return Analysis(
            tuple(self._cycle(each) for each in points),
            tuple(self._cycle(each) for each in found),
            exponents=exponents / self.dt,
            codes={**self.codes, "bounded_orbits": states.shape[1] / _ORBITS, **self._symbols(states)},
        )

    def _symbols(self, states: Float[np.ndarray, "time batch state"]) -> dict[str, Any]:
        """The alphabet of a map with few regions: how often which follows which, and the entropy of words of four."""
        if not 0 < self.map.units <= _FEW_UNITS:
            return {}
        code = symbolic_code(list(self.map.pattern(states).swapaxes(0, 1)))
        return {
            "symbols": code.symbols,
            "symbol_patterns": code.patterns,
            "symbol_shares": code.frequencies,
            "transitions": code.condensed().transitions,
            "entropy": code.entropy(4) / self.dt,
        }

    def _periods(self, orbit: Float[np.ndarray, "time state"]) -> list[int]:
        """Periods after which the orbit comes closest to itself, less than a quarter of its spread away."""
        nearest = np.array(
            [np.linalg.norm(orbit[n:] - orbit[:-n], axis=1).min() for n in range(1, min(_LONGEST, len(orbit) // 2))]
        )
        dips = [n for n in range(2, len(nearest)) if nearest[n - 1] == nearest[max(0, n - 3) : n + 2].min()]
        close = [n for n in dips if nearest[n - 1] < 0.25 * orbit.std(axis=0).max()]
        return sorted(close, key=lambda n: float(nearest[n - 1]))[:_PERIODS]

    def _cycle(self, cycle: MapCycle) -> Cycle:
        return Cycle(self.observed(cycle.points), cycle.multipliers)
