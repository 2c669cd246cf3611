"""Convex Lipschitz problems for studies of schedules: subgradient descent, whose loss theory bounds."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Subgradient = Callable[[Float[np.ndarray, " d"]], tuple[float, Float[np.ndarray, " d"]]]
"""From a point to the loss over its least and one subgradient."""


@dataclasses.dataclass(frozen=True)
class Descent:
    """Losses over the least and norms of the subgradients, (steps,) each, at the points where the steps are taken."""

    losses: Float[np.ndarray, " steps"]
    norms: Float[np.ndarray, " steps"]


def descend(oracle: Subgradient, start: Float[np.ndarray, " d"], rates: Float[np.ndarray, " steps"]) -> Descent:
    """Subgradient descent."""
    point, losses, norms = start.copy(), [], []
    for rate in rates:
        loss, gradient = oracle(point)
        losses.append(loss)
        norms.append(float(np.linalg.norm(gradient)))
        point = point - rate * gradient
    return Descent(np.array(losses), np.array(norms))


def absolute(point: Float[np.ndarray, " d"]) -> tuple[float, Float[np.ndarray, " d"]]:
    """The sum of absolute values."""
    return float(np.abs(point).sum()), np.sign(point)


def absolute_regression(examples: int, dimension: int, generator: np.random.Generator) -> tuple[Subgradient, float]:
    """The mean absolute error of a linear fit to targets that a planted vector meets; its distance from 0."""
    inputs = generator.normal(size=(examples, dimension))
    planted = generator.normal(size=dimension)
    targets = inputs @ planted

    def oracle(point: Float[np.ndarray, " d"]) -> tuple[float, Float[np.ndarray, " d"]]:
        residual = inputs @ point - targets
        return float(np.abs(residual).mean()), np.sign(residual) @ inputs / examples

    return oracle, float(np.linalg.norm(planted))


def adversary(rates: Float[np.ndarray, " steps"]) -> Subgradient:
    """A convex function of as many coordinates as steps on which the last iterate of these rates, from 0 on, is bad.

    It is the largest of 0 and h_1 x, ..., h_T x, with h_i = (a_1, ..., a_{i-1}, -1, 0, ..., 0) and
    a_j = eta_j / (2 sum_{j < t < T} eta_t), at the end 1/2. Its least, 0, is at 0, where descent begins. The oracle
    answers the i-th question with h_i, which is the largest there: each step raises all pieces to come, and the T-th
    point has the loss sum_{j < T - 1} eta_j^2 / (4 sum_{j < t < T} eta_t) and a last summand.

    Source: the construction of Harvey, Liaw, Plan, Randhawa 2019, arXiv:1812.05217, section 3, with weights for any
    rates and without a ball around it.
    """
    count = len(rates)
    later = np.append(np.cumsum(rates[::-1])[-2::-1], 0.0) - rates[-1]
    weights = np.full(count, 0.5)
    weights[: count - 2] = rates[: count - 2] / (2 * later[: count - 2])
    asked = itertools.count()

    def oracle(point: Float[np.ndarray, " d"]) -> tuple[float, Float[np.ndarray, " d"]]:
        pieces = np.append(0.0, np.cumsum(weights * point)[:-1]) - point
        piece = next(asked)
        gradient = np.where(np.arange(count) < piece, weights, 0.0)
        gradient[piece] = -1.0
        return max(0.0, float(pieces.max())), gradient

    return oracle
