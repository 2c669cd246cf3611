"""Polynomial policies with fewer terms: the least are left out, and a search goes on with the others."""

from __future__ import annotations

import dataclasses

import numpy as np

from separatrix.reconstruct.control.plants import Plant
from separatrix.reconstruct.control.policies import OddPolynomials
from separatrix.reconstruct.control.rollouts import Step, visited
from separatrix.reconstruct.control.search import Search, search

_EPISODES = 8
_MATTERS = 3.0
"""Beyond so many limits a term is as good as any larger one: the policy is clipped."""


def thinned(
    plant: Plant,
    found: Search,
    terms: int,
    generations: int,
    generator: np.random.Generator,
    *,
    step: Step | None = None,
    candidates: int = 128,
    elite: int = 16,
    starts: int = 16,
) -> Search:
    """A search among `OddPolynomials`, gone on with for some generations with only so many of its terms.

    Those are kept that are largest (root mean square) in episodes of its policy, as thresholded regressions keep them;
    what they have to do for the others is found by the search. One input.
    """
    family = found.family
    if not isinstance(family, OddPolynomials) or len(plant.inputs) != 1:
        raise TypeError("only searches among OddPolynomials of one input have terms to leave out: start one")
    met = visited(plant, found.policy, plant.begin(generator, _EPISODES), generator, step=step)
    parts = family.monomials.values(met / plant.scales)[:, family.kept] * found.mean
    sizes = np.sqrt(np.mean(np.clip(parts, -_MATTERS, _MATTERS) ** 2, axis=0))
    best = np.sort(np.argsort(-sizes)[:terms])
    places = np.arange(family.size) if family.places is None else np.array(family.places)
    fewer = dataclasses.replace(family, places=tuple(int(place) for place in places[best]))
    start = Search(fewer, found.mean[best], found.covariance[np.ix_(best, best)])
    size = {"candidates": candidates, "elite": elite, "starts": starts}
    return search(plant, start, generations, generator, step=step, **size)[-1].search
