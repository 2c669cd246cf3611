"""The path of the weights: principal components, correlated modes, connections between networks, slices of the loss."""

from separatrix.analysis.trajectory.components import Components, path_length, principal_components, tortuosity
from separatrix.analysis.trajectory.connectivity import (
    Barrier,
    barrier,
    barrier_height,
    layer_barriers,
    predicted_barrier,
)
from separatrix.analysis.trajectory.landscape import Slice, filter_normalised, loss_slice, random_direction
from separatrix.analysis.trajectory.matching import Matching, match, permuted
from separatrix.analysis.trajectory.modes import CorrelationModes, correlation_modes
from separatrix.analysis.trajectory.weights import Trajectory, load_trajectory

__all__ = [
    "Barrier",
    "Components",
    "CorrelationModes",
    "Matching",
    "Slice",
    "Trajectory",
    "barrier",
    "barrier_height",
    "correlation_modes",
    "filter_normalised",
    "layer_barriers",
    "load_trajectory",
    "loss_slice",
    "match",
    "path_length",
    "permuted",
    "predicted_barrier",
    "principal_components",
    "random_direction",
    "tortuosity",
]
