"""Does the best learning rate of a small model fit a large one? A sweep over sizes and rates, and its verdict."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from separatrix.steer.errors import SteerError

_STEPS = 1


@dataclasses.dataclass(frozen=True)
class TransferSweep:
    """Losses (sizes, rates, seeds) of trainings, infinite where one broke; rates rise by one factor, the grid's step.

    `best` is, for each size, the index of the rate with the least mean loss over seeds, `optima` the logarithm to base
    2 of the rate at the minimum of the parabola through it and its neighbours.
    """

    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    losses: Float[np.ndarray, "sizes rates seeds"]

    @property
    def means(self) -> Float[np.ndarray, "sizes rates"]:
        """Mean losses over seeds."""
        means: np.ndarray = self.losses.mean(2)
        return means

    @property
    def best(self) -> tuple[int, ...]:
        """Index of the best rate at each size."""
        return tuple(int(index) for index in self.means.argmin(1))

    @property
    def optima(self) -> tuple[float, ...]:
        """Logarithm to base 2 of the best rate at each size, between grid points."""
        logs = np.log2(self.rates)
        return tuple(_vertex(logs, row, index) for row, index in zip(self.means, self.best, strict=True))

    @property
    def drift(self) -> int:
        """The largest distance of a best rate from the smallest size's, in steps of the grid, with its sign."""
        moves = [index - self.best[0] for index in self.best]
        return max(moves, key=abs)

    @property
    def slope(self) -> float:
        """Exponent of the best rate in the size."""
        x = np.log2(np.asarray(self.sizes, dtype=np.float64))
        x = x - x.mean()
        return float(x @ np.asarray(self.optima) / (x @ x))

    @property
    def transfers(self) -> bool:
        """Whether best rates stay within one step of the grid, which is what a grid can tell."""
        return abs(self.drift) <= _STEPS

    @property
    def verdict(self) -> str:
        """In words: "transfers" or "drifts by k grid steps", and whether the grid was too short to tell."""
        moved = "transfers" if self.transfers else f"drifts by {self.drift:+d} grid steps"
        at_edge = [size for size, index in zip(self.sizes, self.best, strict=True) if index in (0, len(self.rates) - 1)]
        edge = f"; the best rate of size {at_edge[0]} is at the end of the grid: widen it" if at_edge else ""
        return moved + edge

    @property
    def cost(self) -> Float[np.ndarray, " sizes"]:
        """What the smallest size's best rate costs each size: mean loss over that at the size's own best, less 1."""
        means = self.means
        costs: np.ndarray = means[:, self.best[0]] / means.min(1) - 1
        return costs


def transfer_sweep(
    train: Callable[[int, float, int], float],
    sizes: Sequence[int],
    rates: Sequence[float],
    *,
    seeds: Sequence[int] = (0, 1),
) -> TransferSweep:
    """Call `train(size, rate, seed)`, which gives the loss that counts, for all of them; nan is a training that broke.

    Raises:
        SteerError: sizes, rates or seeds are too few, or rates do not rise by one factor.
    """
    cells = itertools.product(sizes, rates, seeds)
    losses = np.array([train(*cell) for cell in cells], dtype=np.float64)
    return judge_transfer(sizes, rates, losses.reshape(len(sizes), len(rates), len(seeds)))


def judge_transfer(
    sizes: Sequence[int], rates: Sequence[float], losses: Float[np.ndarray, "sizes rates seeds"]
) -> TransferSweep:
    """The sweep of losses that were computed elsewhere.

    Raises:
        SteerError: as of `transfer_sweep`, or at some size no rate gives a finite loss.
    """
    if len(sizes) < 2 or len(rates) < 3 or losses.shape[2] < 1:
        raise SteerError("a sweep needs two sizes or more, three rates or more, and a seed: give them")
    factors = [math.log(b / a) for a, b in itertools.pairwise(rates)]
    if factors[0] <= 0 or max(factors) - min(factors) > 1e-6 * factors[0]:
        raise SteerError("the rates of a sweep must rise by one factor, such as 2: choose them so")
    clean = np.where(np.isfinite(losses), losses, np.inf)
    if lost := [size for size, row in zip(sizes, clean.mean(2), strict=True) if not np.isfinite(row).any()]:
        raise SteerError(f"at size {lost[0]} no rate gives a finite loss: lower the rates")
    return TransferSweep(tuple(sizes), tuple(float(rate) for rate in rates), clean)


def _vertex(logs: Float[np.ndarray, " rates"], losses: Float[np.ndarray, " rates"], index: int) -> float:
    """Where the parabola through the least loss and its neighbours has its minimum; the grid point at an end."""
    if index in (0, len(logs) - 1) or not np.isfinite(losses[index - 1 : index + 2]).all():
        return float(logs[index])
    before, least, after = losses[index - 1 : index + 2]
    bend = before - 2 * least + after
    shift = 0.0 if bend <= 0 else 0.5 * (before - after) / bend
    return float(logs[index] + shift * (logs[1] - logs[0]))
