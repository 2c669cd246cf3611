"""An evolution strategy that knows which changes of a model matter: for aims that have no useful gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.reconstruct._damped_least_squares import NormalEquations

_STEP = 0.1  # spread of the first generation: it raises the error by about this squared for each number
_LONGEST = 0.5
_FLOOR = 1e-4  # least curvature that sets a scale, as a share of the mean


def evolved(
    numbers: Float[Tensor, " number"],
    equations: NormalEquations,
    score: Callable[[Float[Tensor, "copy number"]], Float[np.ndarray, " copy"]],
    *,
    generations: int,
    copies: int,
    generator: torch.Generator,
) -> Float[Tensor, " number"]:
    """The numbers of the lowest score among `numbers` and all that were tried.

    Each generation draws `copies` around a mean, which moves to the better quarter of them, with the step length
    adapted to the length of the path (Hansen and Ostermeier 2001, Completely Derandomized Self-Adaptation in Evolution
    Strategies, section 2). Distances are those of `equations`: changes as long as 1 double the squared error there, so
    that what is tried predicts about as well.
    """
    curvatures, directions = torch.linalg.eigh(equations.gram)
    scale = directions * (equations.error / curvatures.clamp_min(_FLOOR * float(curvatures.mean()))).sqrt()
    kept, size = max(1, copies // 4), len(numbers)
    weights = math.log(kept + 0.5) - torch.arange(1, kept + 1, dtype=numbers.dtype).log()
    weights = weights / weights.sum()
    effective = 1 / float(weights.square().sum())
    memory = (effective + 2) / (size + effective + 5)
    expected = math.sqrt(size) * (1 - 1 / (4 * size) + 1 / (21 * size**2))
    mean, path, step = torch.zeros_like(numbers), torch.zeros_like(numbers), _STEP
    best, least = numbers, float(score(numbers[None])[0])
    for _ in range(generations):
        drawn = torch.randn(copies, size, dtype=numbers.dtype, generator=generator)
        tried = numbers + (mean + step * drawn) @ scale.T
        scores = score(tried)
        order = np.argsort(scores, kind="stable")
        if scores[order[0]] < least:
            best, least = tried[order[0]], float(scores[order[0]])
        moved = weights @ drawn[torch.from_numpy(order[:kept])]
        mean = mean + step * moved
        path = (1 - memory) * path + math.sqrt(memory * (2 - memory) * effective) * moved
        step = min(_LONGEST, step * math.exp(memory / (1 + memory) * (float(path.norm()) / expected - 1)))
    return best
