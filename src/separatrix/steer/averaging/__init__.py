"""Averages of weights over a training: the rule for other batch sizes, and lengths chosen afterwards."""

from separatrix.steer.averaging.errors import AveragingError
from separatrix.steer.averaging.power import (
    LONGEST,
    coefficients,
    decay,
    exponent,
    power_average,
    profile,
    relative_width,
)
from separatrix.steer.averaging.scaling import averaging_rate, rescale, scaled_momentum
from separatrix.steer.averaging.snapshots import AverageSnapshots, reconstruct

__all__ = [
    "LONGEST",
    "AverageSnapshots",
    "AveragingError",
    "averaging_rate",
    "coefficients",
    "decay",
    "exponent",
    "power_average",
    "profile",
    "reconstruct",
    "relative_width",
    "rescale",
    "scaled_momentum",
]
