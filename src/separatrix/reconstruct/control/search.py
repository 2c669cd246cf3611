"""Search for a policy by the cross-entropy method: draw networks, keep the best, draw around them again.

It needs returns only, no gradients, and is the same in a plant and in a surrogate, which makes the two comparable.
Source: Rubinstein 1999; for policies: Mannor, Rubinstein & Gat 2003.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from separatrix.reconstruct.control.plants import Plant
from separatrix.reconstruct.control.policies import NeuralPolicy
from separatrix.reconstruct.control.rollouts import Step, returns

_LEAST = 0.05
"""Least deviation of a weight: without one the search ends wherever it is first sure."""


@dataclasses.dataclass(frozen=True)
class Search:
    """Where a search stands: mean and deviation of the weights of networks with so many hidden units."""

    mean: Float[np.ndarray, " size"]
    deviation: Float[np.ndarray, " size"]
    units: int

    @staticmethod
    def begin(plant: Plant, units: int = 16, deviation: float = 1.0) -> Search:
        """A search that knows nothing."""
        size = NeuralPolicy.size(len(plant.names), units, len(plant.inputs))
        return Search(np.zeros(size), np.full(size, deviation), units)

    def policy(self, plant: Plant) -> NeuralPolicy:
        """The network of mean weights."""
        return NeuralPolicy(self.mean, len(plant.names), self.units, plant.limit, len(plant.inputs))


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

    All candidates of a generation face the same new starts.
    """
    now, found = start, []
    for _ in range(generations):
        weights = now.mean + now.deviation * generator.standard_normal((candidates, len(now.mean)))
        weights[0] = now.mean
        policy = NeuralPolicy(weights, len(plant.names), now.units, plant.limit, len(plant.inputs))
        begin = np.broadcast_to(plant.begin(generator, starts), (candidates, starts, len(plant.names)))
        scores = returns(plant, policy, begin, step=step).mean(axis=1)
        best = weights[np.argsort(-scores)[:elite]]
        now = Search(best.mean(axis=0), np.maximum(best.std(axis=0), _LEAST), now.units)
        found.append(SearchStep(now, candidates * starts * plant.steps))
    return found
