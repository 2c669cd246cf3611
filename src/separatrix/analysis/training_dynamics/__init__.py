"""Training as a dynamical system: how fast twins part, which linear modes its path has, which equations it obeys."""

from separatrix.analysis.training_dynamics.linear_modes import ForecastErrors, LinearModes, linear_modes
from separatrix.analysis.training_dynamics.order_parameters import recovered_equations
from separatrix.analysis.training_dynamics.sensitivity import Sensitivity, parting, training_exponent

__all__ = [
    "ForecastErrors",
    "LinearModes",
    "Sensitivity",
    "linear_modes",
    "parting",
    "recovered_equations",
    "training_exponent",
]
