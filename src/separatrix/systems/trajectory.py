"""A simulated trajectory, or a batch of them, at equal intervals."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from separatrix.systems.system import System


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectory:
    """States of a system at equal intervals.

    `values` has shape (copy, time, dimension), in the order of `system.variables`; `dt` is the interval between points
    in the system's time units (1 for a map).
    """

    system: System
    times: Float[np.ndarray, " time"]
    values: Float[np.ndarray, "copy time dimension"]
    dt: float

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the last axis."""
        return self.system.variables

    @property
    def observed(self) -> Float[np.ndarray, "copy time observed"]:
        """The values with unbounded variables replaced by bounded functions of them."""
        return self.system.observe(self.values)

    @property
    def lyapunov_times(self) -> Float[np.ndarray, " time"]:
        """Times from the start in units of the inverse of the largest Lyapunov exponent.

        Raises:
            DescriptionError: the exponent is not known.
        """
        elapsed: np.ndarray = self.times - self.times[0]
        return elapsed * self.system.largest_exponent
