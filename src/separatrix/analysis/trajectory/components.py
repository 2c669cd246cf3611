"""Principal components of a path, its length and its tortuosity."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from separatrix.runs.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Components:
    """Principal components of points: `coordinates` (points, components), `directions` (components, size) of length 1.

    `explained` holds the share of the variance of every component there is, kept or not; it sums to 1. `mean` is the
    centre (size,).
    """

    coordinates: Float[np.ndarray, " points components"]
    directions: Float[np.ndarray, " components size"]
    explained: Float[np.ndarray, " points"]
    mean: Float[np.ndarray, " size"]

    def reconstructed(self) -> Float[np.ndarray, " points size"]:
        """The points from the components that were kept."""
        return np.asarray(self.mean + self.coordinates @ self.directions)


def principal_components(weights: Float[np.ndarray, " points size"], count: int = 2) -> Components:
    """The leading principal components of a path of weights, from the Gram matrix of its points.

    Exact: eigenvalues of the Gram matrix of n points are those of the covariance, and n is far below the size. Signs
    are chosen so that the last point has no negative coordinate.

    Raises:
        UsageError: fewer than two points, values that are not finite, or more components than points less one.

    Cost: n^2 size. Source: Lorch 2016, Visualizing deep network training trajectories with PCA.
    """
    points = np.asarray(weights, dtype=np.float64)
    if points.ndim != 2 or len(points) < 2 or not np.isfinite(points).all():
        raise UsageError(f"principal components of an array {points.shape}: give at least two finite points (n, size)")
    if not 1 <= count < len(points):
        raise UsageError(f"{count} components of {len(points)} points: ask for 1 to {len(points) - 1}")
    mean = points.mean(axis=0)
    centred = points - mean
    values, vectors = np.linalg.eigh(centred @ centred.T)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    total = values.sum()
    lengths = np.sqrt(values[:count])
    coordinates = vectors[:, :count] * lengths
    signs = np.where(coordinates[-1] < 0, -1.0, 1.0)
    coordinates = coordinates * signs
    with np.errstate(divide="ignore", invalid="ignore"):
        directions = np.where(lengths[:, None] > 0, (coordinates.T @ centred) / values[:count, None], 0.0)
    explained = values / total if total > 0 else np.zeros_like(values)
    return Components(coordinates, directions, explained, mean)


def path_length(weights: Float[np.ndarray, " points size"]) -> float:
    """Sum of the distances between successive points."""
    return float(np.linalg.norm(np.diff(np.asarray(weights, dtype=np.float64), axis=0), axis=1).sum())


def tortuosity(weights: Float[np.ndarray, " points size"]) -> float:
    """Length of a path over the distance between its ends: 1 on a straight line, infinite for a closed path.

    Of a random walk it grows as the root of the number of points: compare only paths sampled equally often.

    Raises:
        UsageError: fewer than two points, or a path that does not move.
    """
    points = np.asarray(weights, dtype=np.float64)
    length = path_length(points) if len(points) > 1 else 0.0
    if length == 0.0:
        raise UsageError(f"{len(points)} points that do not move have no tortuosity: give a path of two or more")
    with np.errstate(divide="ignore"):
        return float(np.float64(length) / np.linalg.norm(points[-1] - points[0]))
