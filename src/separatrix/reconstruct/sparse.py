"""Sparse identification of nonlinear dynamics: readable polynomial equations, by ensembles of thresholded regressions.

Derivatives (or, of maps, next samples) are regressed on monomials by sequentially thresholded least squares (Brunton et
al. 2016), over bootstrap samples of the data; a term is kept where more than half of the ensemble has it, with the
median of its coefficients (Fasel et al. 2022). Thresholds apply to a term's share of the derivative (root mean squares
of both), so that they mean the same whatever the units.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from separatrix.reconstruct._orbits import exponents_along, found_cycles
from separatrix.reconstruct._polynomials import Monomials
from separatrix.reconstruct.errors import TrajectoryError
from separatrix.reconstruct.model import Analysis, Cycle, Reconstructor
from separatrix.reconstruct.scaling import Scaling
from separatrix.reconstruct.trajectories import Trajectories
from separatrix.runs.errors import MissingExtraError
from separatrix.runs.paper import Paper
from separatrix.runs.settings import Setting, Settings

_SUBSTEPS = 4
_STARTS = 20
_LONGEST = 4
_STEPS = 2000


@dataclasses.dataclass(frozen=True)
class SparseEquations:
    """x' = W p(x) in the data's units, or x[t+1] = W p(x) of a map, p all monomials up to a degree.

    `ensemble` has the coefficients of each bootstrap sample, (member, monomial, variable); `coefficients` what is kept
    of them. Flows are integrated by four steps of the classical Runge-Kutta method a sampling interval.
    """

    monomials: Monomials
    coefficients: Float[np.ndarray, "monomial variable"]
    ensemble: Float[np.ndarray, "member monomial variable"]
    flow: bool
    scaling: Scaling
    dt: float
    names: tuple[str, ...]
    starts: Float[np.ndarray, "start variable"]

    history: int = 1

    @property
    def inclusion(self) -> Float[np.ndarray, "monomial variable"]:
        """Share of the ensemble that has a term."""
        return np.asarray((self.ensemble != 0).mean(axis=0))

    def right_hand_side(self, points: Float[np.ndarray, "point variable"]) -> Float[np.ndarray, "point variable"]:
        """W p(x)."""
        return np.asarray(self.monomials.values(points) @ self.coefficients)

    def jacobian(self, points: Float[np.ndarray, "point variable"]) -> Float[np.ndarray, "point variable variable"]:
        """The derivative of the right-hand side."""
        return np.asarray(np.einsum("pmv,mo->pov", self.monomials.derivatives(points), self.coefficients))

    def step(self, points: Float[np.ndarray, "point variable"]) -> Float[np.ndarray, "point variable"]:
        """The points one sampling interval later."""
        if not self.flow:
            return self.right_hand_side(points)

        def field(points: np.ndarray) -> np.ndarray:
            return np.asarray(self.monomials.unchecked(points) @ self.coefficients)

        for _ in range(_SUBSTEPS):
            points = points + _runge_kutta(field, points, self.dt / _SUBSTEPS)
        return points

    def advance(
        self, points: Float[np.ndarray, "point variable"]
    ) -> tuple[Float[np.ndarray, "point variable"], Float[np.ndarray, "point variable variable"]]:
        """The points one sampling interval later and the derivative of that, of flows by the variational equation."""
        width = points.shape[1]
        if not self.flow:
            return self.right_hand_side(points), self.jacobian(points)

        def both(joint: np.ndarray) -> np.ndarray:
            values, slopes = self.monomials.with_derivatives(joint[:, :width])
            frame = joint[:, width:].reshape(-1, width, width)
            moved = slopes.swapaxes(1, 2) @ self.coefficients
            moved = (moved.swapaxes(1, 2) @ frame).reshape(len(joint), -1)
            return np.concatenate([values @ self.coefficients, moved], axis=1)

        frames = np.broadcast_to(np.eye(width).reshape(-1), (len(points), width * width))
        joint = np.concatenate([points, frames], axis=1)
        for _ in range(_SUBSTEPS):
            joint = joint + _runge_kutta(both, joint, self.dt / _SUBSTEPS)
        return joint[:, :width], joint[:, width:].reshape(-1, width, width)

    def forecast(
        self, history: Float[np.ndarray, "batch past variable"], steps: int
    ) -> Float[np.ndarray, "batch steps variable"]:
        """The samples that follow."""
        points = history[:, -1]
        values = np.empty((len(points), steps, points.shape[1]))
        for index in range(steps):
            points = self.step(points)
            values[:, index] = points
        return values

    def equations(self) -> tuple[str, ...]:
        """One readable equation a variable."""
        terms = self.monomials.named(self.names)
        lines = []
        for name, column in zip(self.names, self.coefficients.T, strict=True):
            parts = [
                f"{c:+.4g}" + (f" {term}" if term != "1" else "") for c, term in zip(column, terms, strict=True) if c
            ]
            left = f"d{name}/dt" if self.flow else f"{name}[t+1]"
            lines.append(f"{left} = {' '.join(parts) or '0'}")
        return tuple(lines)

    def analyse(self) -> Analysis:
        """Equations, fixed points, exponents, and of maps cycles; multipliers are those of one sampling interval."""
        scaling, spread = self.scaling, self.scaling.spread

        def advance(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            points, slopes = self.advance(scaling.restored(states))
            return scaling.scaled(points), np.asarray(slopes * spread / spread[:, None])

        starts = scaling.scaled(self.starts)
        found = exponents_along(advance, starts[-1], len(spread), self.dt, steps=_STEPS, transient=_STEPS // 10)
        cycles = None
        if self.flow:
            fixed = self._resting(starts)
        else:
            step, slope = lambda states: advance(states)[0], lambda states: advance(states)[1]
            fixed = found_cycles(step, slope, starts, range(1, 2), scaling.restored)
            cycles = found_cycles(step, slope, starts, range(2, _LONGEST + 1), scaling.restored)
        return Analysis(
            fixed_points=fixed,
            cycles=cycles,
            exponents=found,
            equations=self.equations(),
            codes={"coefficients": self.coefficients, "inclusion": self.inclusion},
            notes=("a free run of the model goes astray: it has no exponents",) if found is None else (),
        )

    def _resting(self, starts: Float[np.ndarray, "start variable"]) -> tuple[Cycle, ...]:
        """Fixed points of a flow: of the map x + f(x), which needs no integration, with the multipliers of the flow."""
        scaling, spread = self.scaling, self.scaling.spread

        def step(states: np.ndarray) -> np.ndarray:
            return np.asarray(states + self.right_hand_side(scaling.restored(states)) / spread)

        def slope(states: np.ndarray) -> np.ndarray:
            own = self.jacobian(scaling.restored(states)) * spread / spread[:, None]
            return np.asarray(np.eye(len(spread)) + own)

        points = found_cycles(step, slope, starts, range(1, 2), scaling.restored)
        return tuple(Cycle(each.points, np.exp(self.dt * (each.multipliers - 1.0))) for each in points)


def _runge_kutta(field: Any, points: np.ndarray, width: float) -> np.ndarray:
    first = field(points)
    second = field(points + 0.5 * width * first)
    third = field(points + 0.5 * width * second)
    fourth = field(points + width * third)
    return np.asarray(width / 6.0 * (first + 2.0 * second + 2.0 * third + fourth))


def sparse_ensemble(
    inputs: Float[np.ndarray, "row feature"],
    targets: Float[np.ndarray, "row output"],
    *,
    threshold: float,
    penalty: float,
    members: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, "member feature output"]:
    """Coefficients of thresholded regressions on all rows first, then on bootstrap samples of them.

    Columns and targets are compared in units of their root mean squares. Zero where a term is dropped.

    Raises:
        MissingExtraError: pysindy is not installed.
    """
    try:
        import pysindy
    except ImportError as error:
        raise MissingExtraError("sparse equations need pysindy: pip install separatrix[reconstruct]") from error
    scale, sizes = (np.sqrt(np.mean(each**2, axis=0)) for each in (inputs, targets))
    scale, sizes = np.where(scale > 0, scale, 1.0), np.where(sizes > 0, sizes, 1.0)
    columns, goals = inputs / scale, targets / sizes
    found = []
    for member in range(members):
        rows = np.arange(len(columns)) if member == 0 else generator.integers(len(columns), size=len(columns))
        optimizer = pysindy.STLSQ(threshold=threshold, alpha=penalty * len(columns))
        found.append(optimizer.fit(columns[rows], goals[rows]).coef_.T)
    return np.asarray(found) / scale[:, None] * sizes


def _derivatives(trajectories: Trajectories, smooth: bool) -> tuple[np.ndarray, np.ndarray]:
    import pysindy

    method = pysindy.SmoothedFiniteDifference() if smooth else pysindy.FiniteDifference(order=4)
    points, slopes = [], []
    for part in trajectories.parts:
        times = trajectories.dt * np.arange(len(part))
        slope = np.asarray(method._differentiate(part, times))
        inner = slice(2, -2)  # one-sided differences at the ends are of lower order
        points.append(part[inner])
        slopes.append(slope[inner])
    return np.concatenate(points), np.concatenate(slopes)


def _learn(trajectories: Trajectories, settings: Settings, seed: int) -> SparseEquations:
    generator = np.random.default_rng(seed)
    monomials = Monomials(len(trajectories.names), settings["degree"])
    flow = settings["kind"] == "flow"
    if flow and min(trajectories.lengths) < 9:
        raise TrajectoryError(
            f"a trajectory has {min(trajectories.lengths)} samples, and derivatives need 9: give longer ones"
        )
    if flow:
        try:
            points, targets = _derivatives(trajectories, settings["smooth"])
        except ImportError as error:
            raise MissingExtraError("sparse equations need pysindy: pip install separatrix[reconstruct]") from error
    else:
        windows = trajectories.windows(2)
        points, targets = windows[:, 0], windows[:, 1]
    ensemble = sparse_ensemble(
        monomials.values(points),
        targets,
        threshold=settings["threshold"],
        penalty=settings["ridge"],
        members=settings["members"],
        generator=generator,
    )
    kept = (ensemble != 0).mean(axis=0) > 0.5
    coefficients = np.where(kept, np.median(ensemble, axis=0), 0.0)
    starts = points[:: max(1, len(points) // _STARTS)][:_STARTS]
    return SparseEquations(
        monomials, coefficients, ensemble, flow, Scaling.of(trajectories), trajectories.dt, trajectories.names, starts
    )


reconstructor = Reconstructor(
    name="sindy",
    summary="Sparse identification of nonlinear dynamics: readable polynomial equations, by ensembles.",
    papers=(
        Paper(
            "Discovering governing equations from data by sparse identification of nonlinear dynamical systems",
            ("Steven L. Brunton", "Joshua L. Proctor", "J. Nathan Kutz"),
            2015,
            "https://arxiv.org/abs/1509.03580",
        ),
        Paper(
            "Ensemble-SINDy: Robust sparse model discovery in the low-data, high-noise limit, with active learning and"
            " control",
            ("Urban Fasel", "J. Nathan Kutz", "Bingni W. Brunton", "Steven L. Brunton"),
            2021,
            "https://arxiv.org/abs/2111.10992",
        ),
    ),
    settings=(
        Setting("kind", "str", "flow", "whether samples are of a flow or of a map", choices=("flow", "map")),
        Setting("degree", "int", 2, "degree of the polynomial", 1, 8),
        Setting("threshold", "float", 0.02, "least share of the derivative that a term must have", 0.0, 1.0),
        Setting("ridge", "float", 1e-9, "penalty on squared coefficients", 0.0, 1e3),
        Setting("members", "int", 20, "regressions of the ensemble", 1, 500),
        Setting("smooth", "bool", False, "whether samples are smoothed before they are differentiated"),
    ),
    learn=_learn,
    extra="reconstruct",
    quick={"members": 5},
)
