"""Intervals around forecasts that hold what they promise, for any model: split conformal prediction."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float

from separatrix.reconstruct.errors import TrajectoryError
from separatrix.reconstruct.model import Reconstruction
from separatrix.reconstruct.trajectories import Trajectories
from separatrix.runs.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Half widths by step ahead and variable, in the data's units, for one coverage.

    Each single value ahead lies inside with at least that probability, whatever the model, if the stretches that were
    calibrated on and those forecast are exchangeable (Vovk et al. 2005; Lei et al. 2018): stretches of one stationary
    series are so to the extent that they are far apart.
    """

    half_widths: Float[np.ndarray, "steps variable"]
    coverage: float

    def around(
        self, forecast: Float[np.ndarray, "*batch steps variable"]
    ) -> tuple[Float[np.ndarray, "*batch steps variable"], Float[np.ndarray, "*batch steps variable"]]:
        """Lower and upper ends."""
        return forecast - self.half_widths, forecast + self.half_widths

    def holds(
        self, forecast: Float[np.ndarray, "*batch steps variable"], truth: Float[np.ndarray, "*batch steps variable"]
    ) -> Bool[np.ndarray, "*batch steps variable"]:
        """Whether each value was inside."""
        return np.asarray(np.abs(truth - forecast) <= self.half_widths)


def calibrate(
    model: Reconstruction, unseen: Trajectories, steps: int, coverage: float = 0.9, *, apart: int | None = None
) -> Intervals:
    """Intervals for forecasts of `steps` steps from stretches of unseen trajectories, `apart` samples apart.

    `apart` is a forecast's length when left out. Forecasts that go astray count as infinitely wrong.

    Raises:
        UsageError: the coverage is not between 0 and 1.
        TrajectoryError: too few stretches for that coverage: n of them allow at most n / (n + 1).
    """
    if not 0.0 < coverage < 1.0:
        raise UsageError(f"coverage={coverage} is no share: give one between 0 and 1")
    windows = unseen.windows(model.history + steps)[:: apart or steps]
    place = math.ceil((len(windows) + 1) * coverage)
    if place > len(windows):
        raise TrajectoryError(
            f"{len(windows)} stretches allow a coverage of at most {len(windows) / (len(windows) + 1):.3g}: give more"
            " unseen samples, fewer steps, or a smaller coverage"
        )
    forecasts = model.forecast(windows[:, : model.history], steps)
    errors = np.abs(windows[:, model.history :] - forecasts)
    return Intervals(np.sort(np.where(np.isnan(errors), np.inf, errors), axis=0)[place - 1], coverage)
