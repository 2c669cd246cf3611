"""Normalisation that models keep inside."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from separatrix.reconstruct.trajectories import Trajectories


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Variables less their mean over their standard deviation; one that never changes is only shifted."""

    mean: Float[np.ndarray, " variable"]
    spread: Float[np.ndarray, " variable"]

    @classmethod
    def of(cls, trajectories: Trajectories) -> Scaling:
        """That of all samples of the trajectories."""
        points = trajectories.points
        spread = points.std(axis=0)
        return cls(points.mean(axis=0), np.where(spread > 0, spread, 1.0))

    def scaled(self, values: Float[np.ndarray, "*rows variable"]) -> Float[np.ndarray, "*rows variable"]:
        """Values in units of the spread, from the mean on."""
        return np.asarray((values - self.mean) / self.spread)

    def restored(self, values: Float[np.ndarray, "*rows variable"]) -> Float[np.ndarray, "*rows variable"]:
        """Values in the data's own units."""
        return np.asarray(values * self.spread + self.mean)
