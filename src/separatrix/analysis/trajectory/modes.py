"""Correlation modes: groups of weights whose paths go together, each weight an affine image of one reference path.

Source: Brokman, Betser, Turjeman, Berkov, Cohen and Gilboa 2023, Enhancing Neural Training via a Correlated Dynamics
Model, arXiv:2312.13247.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from separatrix.runs.errors import UsageError

_STILL = 1e-12


@dataclasses.dataclass(frozen=True)
class CorrelationModes:
    """Weight i follows `scale[i] * references[mode[i]] + offset[i]`.

    `references` (modes, steps) are paths of single weights, at the columns `columns`; a weight that never moves has
    mode -1 and scale 0. `correlation` (size,) is that of each weight with its reference, 1 for weights that never move.
    """

    references: Float[np.ndarray, " modes steps"]
    columns: Int[np.ndarray, " modes"]
    mode: Int[np.ndarray, " size"]
    scale: Float[np.ndarray, " size"]
    offset: Float[np.ndarray, " size"]
    correlation: Float[np.ndarray, " size"]

    @property
    def numbers(self) -> int:
        """Real numbers stored: the references, and two for each weight; the modes' labels are no reals."""
        return int(self.references.size + 2 * self.mode.size)

    def reconstructed(self) -> Float[np.ndarray, " steps size"]:
        """The path of all weights."""
        shape = np.where((self.mode >= 0)[:, None], self.references[np.maximum(self.mode, 0)], 0.0)
        return np.asarray((self.scale[:, None] * shape + self.offset[:, None]).T)


def correlation_modes(
    weights: Float[np.ndarray, " steps size"], count: int, *, sampled: int = 1000, seed: int = 0
) -> CorrelationModes:
    """Groups weights into `count` modes of correlated paths.

    Correlations, without their sign, of `sampled` weights drawn at random are clustered hierarchically (complete
    linkage: the least correlated pair decides). The reference of a cluster is the weight with the highest mean
    correlation to the others. Then every weight joins the reference that it is most correlated with, and its scale and
    offset are those of least squares.

    Args:
        weights: a path (steps, size) of at least three steps.
        count: how many modes; fewer come out where fewer paths differ.
        sampled: weights whose correlations are clustered.
        seed: of the draw.

    Raises:
        UsageError: the path is too short or not finite, nothing moves, or `count` is below 1.

    Cost: sampled^2 (steps + log sampled) + size modes steps.
    """
    path = np.asarray(weights, dtype=np.float64)
    if path.ndim != 2 or len(path) < 3 or not np.isfinite(path).all():
        raise UsageError(f"correlation modes of an array {path.shape}: give a finite path of three steps or more")
    mean = path.mean(axis=0)
    centred = path - mean
    lengths = np.linalg.norm(centred, axis=0)
    moving = np.flatnonzero(lengths > _STILL * np.maximum(1.0, np.abs(mean)) * np.sqrt(len(path)))
    if count < 1 or not moving.size:
        raise UsageError(f"{count} modes of {moving.size} moving weights: ask for one or more of weights that move")
    units = (centred[:, moving] / lengths[moving]).T
    columns = moving[_references(units, count, sampled, seed)]
    references = path[:, columns].T
    shapes = (centred[:, columns] / lengths[columns]).T
    correlations = units @ shapes.T
    chosen = np.abs(correlations).argmax(axis=1)
    best = correlations[np.arange(len(units)), chosen]
    mode = np.full(path.shape[1], -1)
    scale, offset, correlation = np.zeros(path.shape[1]), mean.copy(), np.ones(path.shape[1])
    mode[moving] = chosen
    scale[moving] = best * lengths[moving] / lengths[columns[chosen]]
    offset[moving] = mean[moving] - scale[moving] * mean[columns[chosen]]
    correlation[moving] = best
    return CorrelationModes(references, columns, mode, scale, offset, correlation)


def _references(units: NDArray[np.float64], count: int, sampled: int, seed: int) -> NDArray[np.int64]:
    """Rows of `units` (weights, steps), each centred and of length 1, that stand for the clusters."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    drawn = np.random.default_rng(seed).permutation(len(units))[: max(2, sampled)]
    if len(drawn) < 2:
        return drawn
    alike = np.minimum(np.abs(units[drawn] @ units[drawn].T), 1.0)
    distances = 1.0 - alike
    np.fill_diagonal(distances, 0.0)
    clusters = fcluster(linkage(squareform(distances, checks=False), "complete"), count, criterion="maxclust")
    found = []
    for cluster in np.unique(clusters):
        inside = np.flatnonzero(clusters == cluster)
        found.append(drawn[inside[alike[np.ix_(inside, inside)].mean(axis=1).argmax()]])
    return np.array(found)
