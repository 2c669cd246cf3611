"""Search for a policy by adapting a normal distribution: draw policies, keep the best, draw around them again.

It needs returns only, no gradients, and is the same in a plant and in a surrogate, which makes the two comparable.
The covariance is learnt from how the best differ from the old mean, not from their own, and by a share a generation:
it grows along directions in which the mean moves, where that of the cross-entropy method (Rubinstein 1999) shrinks.
Source: Hansen, Mueller & Koumoutsakos 2003, the update of rank mu.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from separatrix.reconstruct.control.plants import Plant
from separatrix.reconstruct.control.policies import Family, Policy
from separatrix.reconstruct.control.rollouts import Step, returns

_LEAST = 1.0 / 30.0
"""Least deviation of a number, over that at the beginning: without one the search ends wherever it is first sure."""

_LEARNT = 0.3


@dataclasses.dataclass(frozen=True)
class Search:
    """Where a search stands: mean and covariance of the numbers of policies of a family."""

    family: Family
    mean: Float[np.ndarray, " size"]
    covariance: Float[np.ndarray, "size size"]

    @staticmethod
    def begin(family: Family) -> Search:
        """A search that knows nothing."""
        return Search(family, np.zeros(family.size), family.deviation**2 * np.eye(family.size))

    @property
    def policy(self) -> Policy:
        """That of the mean."""
        return self.family.policy(self.mean)


@dataclasses.dataclass(frozen=True)
class SearchStep:
    """A search after a generation, and the steps of the plant, or of its surrogate, that the generation took."""

    search: Search
    steps: int


def search(
    plant: Plant,
    start: Search,
    generations: int,
    generator: np.random.Generator,
    *,
    step: Step | None = None,
    candidates: int = 128,
    elite: int = 16,
    starts: int = 16,
) -> list[SearchStep]:
    """`generations` of the search in the plant, or in another `step` over its coordinates.

    All candidates of a generation face the same new starts. Steps are counted as if no episode ended early.
    """
    now, found = start, []
    least = (_LEAST * now.family.deviation) ** 2 * np.eye(len(now.mean))
    for _ in range(generations):
        spread = np.linalg.cholesky(now.covariance + least)
        weights = now.mean + generator.standard_normal((candidates, len(now.mean))) @ spread.T
        weights[0] = now.mean
        begin = np.broadcast_to(plant.begin(generator, starts), (candidates, starts, len(plant.names)))
        scores = returns(plant, now.family.policy(weights), begin, step=step).mean(axis=1)
        best = weights[np.argsort(-scores)[:elite]]
        moved = best - now.mean
        covariance = (1.0 - _LEARNT) * now.covariance + _LEARNT * moved.T @ moved / elite
        now = Search(now.family, best.mean(axis=0), covariance)
        found.append(SearchStep(now, candidates * starts * plant.steps))
    return found
