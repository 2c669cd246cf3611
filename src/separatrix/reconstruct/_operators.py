"""Forecasts and spectra of a transfer operator learnt on features of delayed samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from separatrix.reconstruct._regression import ridge
from separatrix.reconstruct.errors import TrajectoryError
from separatrix.reconstruct.model import Analysis
from separatrix.reconstruct.scaling import Scaling
from separatrix.reconstruct.spectra import Compression, VerifiedSpectrum, compress, verified
from separatrix.reconstruct.trajectories import Trajectories
from separatrix.runs.settings import Setting, Settings

Features = Callable[[Float[np.ndarray, "point delayed"]], Float[np.ndarray, "point feature"]]
CERTIFIED = 1e-2  # residual at which the notes count an eigenvalue as certified: a hundredth of its eigenfunction

OPERATOR_SETTINGS = (
    Setting("lags", "int", 1, "delayed samples that are one state", 1, 64),
    Setting("ridge", "float", 1e-10, "penalty on squared coefficients", 0.0, 1e3),
    Setting("held_out", "float", 0.25, "share of the samples that only verifies", 0.05, 0.5),
    Setting("relift", "bool", True, "whether features are computed anew from each forecast sample"),
)
"""Settings of every reconstructor that learns an operator on features."""

_LEAST = 4


@dataclasses.dataclass(frozen=True)
class OperatorModel:
    """A linear map of features: psi(next) = psi(now) operator, and the sample read off the features.

    `features` take normalised delayed samples, the oldest first, flattened. With `relift` features are computed anew
    from each forecast sample, else they evolve linearly all the way. `compression` is the operator on the span of the
    features; `spectrum` its eigenvalues with residuals on pairs of samples that it has not seen.
    """

    scaling: Scaling
    features: Features
    operator: Float[np.ndarray, "feature feature"]
    readout: Float[np.ndarray, "feature variable"]
    compression: Compression
    spectrum: VerifiedSpectrum
    lags: int
    relift: bool
    dt: float

    @property
    def history(self) -> int:
        """Past samples that a forecast needs."""
        return self.lags

    def forecast(
        self, history: Float[np.ndarray, "batch past variable"], steps: int
    ) -> Float[np.ndarray, "batch steps variable"]:
        """The samples that follow."""
        past = self.scaling.scaled(history[:, -self.lags :])
        values = np.empty((len(past), steps, past.shape[2]))
        lifted = self.features(past.reshape(len(past), -1))
        for index in range(steps):
            lifted = lifted @ self.operator
            values[:, index] = lifted @ self.readout
            if self.relift:
                past = np.concatenate([past[:, 1:], values[:, index : index + 1]], axis=1)
                lifted = self.features(past.reshape(len(past), -1))
        return self.scaling.restored(values)

    def eigenfunctions(self, points: Float[np.ndarray, "point delayed"]) -> np.ndarray:
        """Each eigenfunction at delayed samples in the data's units, (point, mode) complex."""
        scaled = self.scaling.scaled(points.reshape(len(points), self.lags, -1)).reshape(len(points), -1)
        return np.asarray(self.features(scaled) @ self.spectrum.vectors)

    def analyse(self) -> Analysis:
        """Eigenvalues with residuals on unseen data; decay rates and angular frequencies in 1 / time."""
        values, gaps = self.spectrum.eigenvalues, self.spectrum.residuals
        with np.errstate(divide="ignore"):
            rates = np.log(np.where(np.abs(values) > 0, values, np.nan)) / self.dt
        sure = int((gaps < CERTIFIED).sum())
        return Analysis(
            eigenvalues=values,
            residuals=gaps,
            codes={"growth_rates": rates.real, "angular_frequencies": rates.imag},
            notes=(f"{sure} of {len(values)} eigenvalues have a residual below {CERTIFIED:g} on unseen data",),
        )


def split_pairs(
    trajectories: Trajectories, scaling: Scaling, lags: int, held_out: float
) -> tuple[np.ndarray, np.ndarray]:
    """Windows of `lags + 1` normalised samples to learn from, and those that verify: the last share of all.

    Raises:
        TrajectoryError: there are too few windows for both.
    """
    windows = scaling.scaled(trajectories.windows(lags + 1))
    kept = len(windows) - max(_LEAST, round(held_out * len(windows)))
    if kept < _LEAST:
        raise TrajectoryError(
            f"there are {len(windows)} stretches of {lags + 1} samples, too few to learn from and to verify: give more"
        )
    return windows[:kept], windows[kept:]


def learn_operator(
    trajectories: Trajectories,
    features: Features,
    scaling: Scaling,
    settings: Settings,
) -> OperatorModel:
    """Regress features one sample later on features, verify the spectrum on the samples held out.

    `settings` hold a value for each of `OPERATOR_SETTINGS`.

    Raises:
        TrajectoryError: there are too few samples for that many features.
    """
    lags, penalty = settings["lags"], settings["ridge"]
    learning, checking = split_pairs(trajectories, scaling, lags, settings["held_out"])
    now, later = lifted_pairs(features, learning)
    compression = compress(now, later)
    spectrum = verified(compression, *lifted_pairs(features, checking))
    operator = ridge(now, later, penalty)
    readout = ridge(now, learning[:, -2], penalty)
    return OperatorModel(
        scaling, features, operator, readout, compression, spectrum, lags, settings["relift"], trajectories.dt
    )


def lifted_pairs(features: Features, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features of the delayed samples now and one sample later."""
    count = len(windows)
    return features(windows[:, :-1].reshape(count, -1)), features(windows[:, 1:].reshape(count, -1))
