"""Polynomial autoregression: the next increment as a polynomial of delayed samples."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from separatrix.reconstruct._orbits import exponents, found_cycles
from separatrix.reconstruct._polynomials import Monomials
from separatrix.reconstruct._regression import ridge
from separatrix.reconstruct.model import Analysis
from separatrix.reconstruct.scaling import Scaling
from separatrix.reconstruct.trajectories import Trajectories

_STARTS = 40
_LONGEST = 4
_STEPS = 3000
_MOST_SLOPES = 4e5  # entries of a derivative up to which a run of thousands of them is affordable


@dataclasses.dataclass(frozen=True)
class Autoregression:
    """x[t+1] = x[t] + W p(x[t], x[t-skip], ...), p all monomials up to a degree, in normalised variables.

    A state is the last `history` samples, the oldest first, normalised and flattened.
    """

    scaling: Scaling
    monomials: Monomials
    weights: Float[np.ndarray, "monomial variable"]
    lags: int
    skip: int
    dt: float
    names: tuple[str, ...]
    last: Float[np.ndarray, " state"]
    starts: Float[np.ndarray, "start state"]

    @property
    def history(self) -> int:
        """Past samples that a forecast needs."""
        return 1 + (self.lags - 1) * self.skip

    @property
    def variables(self) -> int:
        """Variables of a sample."""
        return len(self.names)

    def _delayed(self, states: np.ndarray) -> np.ndarray:
        past = states.reshape(len(states), self.history, self.variables)
        return past[:, :: self.skip].reshape(len(states), -1)

    def step(self, states: Float[np.ndarray, "batch state"]) -> Float[np.ndarray, "batch state"]:
        """The states one sample later."""
        width = self.variables
        following = states[:, -width:] + self.monomials.values(self._delayed(states)) @ self.weights
        return np.concatenate([states[:, width:], following], axis=1)

    def slope(self, states: Float[np.ndarray, "batch state"]) -> Float[np.ndarray, "batch state state"]:
        """The derivative of `step`."""
        size, width = states.shape[1], self.variables
        derivative = np.zeros((len(states), size, size))
        derivative[:, : size - width, width:] = np.eye(size - width)
        derivative[:, size - width :, size - width :] = np.eye(width)
        columns = np.arange(size).reshape(self.history, width)[:: self.skip].reshape(-1)
        own = np.einsum("bmv,mo->bov", self.monomials.derivatives(self._delayed(states)), self.weights)
        derivative[:, size - width :, columns] += own
        return derivative

    def forecast(
        self, history: Float[np.ndarray, "batch past variable"], steps: int
    ) -> Float[np.ndarray, "batch steps variable"]:
        """The samples that follow."""
        states = self.scaling.scaled(history[:, -self.history :]).reshape(len(history), -1)
        values = np.empty((len(history), steps, self.variables))
        for index in range(steps):
            states = self.step(states)
            values[:, index] = states[:, -self.variables :]
        return self.scaling.restored(values)

    def seen(self, states: Float[np.ndarray, "batch state"]) -> Float[np.ndarray, "batch variable"]:
        """The present samples of states, in the data's units."""
        return self.scaling.restored(states[:, -self.variables :])

    def analyse(self) -> Analysis:
        """Fixed points, cycles and exponents; of a linear model also the eigenvalues of its step."""
        if self.monomials.degree == 1:
            return self._analyse_linear()
        if self.monomials.size * self.monomials.variables > _MOST_SLOPES:
            return Analysis(notes=("the model is too large for exponents and cycles",))
        spectrum = exponents(
            self.step,
            self.slope,
            self.last,
            self.variables,
            self.dt,
            steps=_STEPS,
            transient=_STEPS // 10,
        )
        return Analysis(
            fixed_points=found_cycles(self.step, self.slope, self.starts, range(1, 2), self.seen),
            cycles=found_cycles(self.step, self.slope, self.starts, range(2, _LONGEST + 1), self.seen),
            exponents=spectrum,
            notes=("a free run of the model goes astray: it has no exponents",) if spectrum is None else (),
        )

    def _analyse_linear(self) -> Analysis:
        derivative = self.slope(self.last[None])[0]
        values = np.linalg.eigvals(derivative).astype(np.complex128)
        values = values[np.argsort(-np.abs(values), kind="stable")]
        sizes = np.maximum(np.abs(values), 1e-300)
        return Analysis(
            fixed_points=found_cycles(self.step, self.slope, self.starts[:1], range(1, 2), self.seen),
            cycles=(),
            eigenvalues=values,
            exponents=np.log(sizes) / self.dt,
            notes=("a linear map has no isolated cycles",),
        )


def learn_autoregression(
    trajectories: Trajectories, *, degree: int, lags: int, skip: int, penalty: float
) -> Autoregression:
    """Fit by ridge regression.

    Raises:
        TrajectoryError: no trajectory is as long as the lags need, or there are too many monomials.
    """
    scaling = Scaling.of(trajectories)
    variables = len(trajectories.names)
    monomials = Monomials(variables * lags, degree)
    history = 1 + (lags - 1) * skip
    windows = scaling.scaled(trajectories.windows(history + 1))
    inputs = monomials.values(windows[:, :-1][:, ::skip].reshape(len(windows), -1))
    weights = ridge(inputs, windows[:, -1] - windows[:, -2], penalty)
    states = windows[:, 1:].reshape(len(windows), -1)
    starts = states[:: max(1, len(states) // _STARTS)][:_STARTS]
    return Autoregression(
        scaling, monomials, weights, lags, skip, trajectories.dt, trajectories.names, states[-1], starts
    )
