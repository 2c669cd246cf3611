"""Which forecasters differ over many systems: mean ranks, Friedman's test, and Nemenyi's critical difference."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats
from jaxtyping import Float

from separatrix.runs.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Mean ranks of `names` over systems, 1 for the best.

    `chance` is the probability of ranks so uneven if all were alike (Friedman); two whose mean ranks differ by less
    than `critical_difference` cannot be told apart at the level asked for (Nemenyi).
    """

    names: tuple[str, ...]
    ranks: Float[np.ndarray, " name"]
    systems: int
    chance: float
    critical_difference: float

    @property
    def order(self) -> tuple[str, ...]:
        """Names from the best to the worst."""
        return tuple(self.names[i] for i in np.argsort(self.ranks, kind="stable"))

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Names that cannot be told apart, each group as long as it gets, of two or more."""
        ordered = np.sort(self.ranks)
        ends = [int(np.searchsorted(ordered, rank + self.critical_difference)) for rank in ordered]
        found = [
            self.order[start:end]
            for start, end in enumerate(ends)
            if end - start > 1 and (start == 0 or end > ends[start - 1])
        ]
        return tuple(found)


def ranking(
    names: Sequence[str],
    scores: Float[np.ndarray, "system name"],
    *,
    higher_is_better: bool = True,
    level: float = 0.05,
) -> Ranking:
    """Rank forecasters by a score over systems; ties share the mean of their ranks.

    Raises:
        UsageError: fewer than two systems or names, or scores that are not a number.

    Source: Demšar 2006, J. Mach. Learn. Res. 7, 1; Friedman 1937; Nemenyi 1963.
    """
    values = np.asarray(scores, dtype=np.float64)
    systems, count = values.shape if values.ndim == 2 else (0, 0)
    if count != len(names) or count < 2 or systems < 2 or np.isnan(values).any():
        raise UsageError(
            f"scores of shape {values.shape} for {len(names)} names: give two or more of each, all of them numbers"
        )
    ranks = scipy.stats.rankdata(-values if higher_is_better else values, axis=1)
    return Ranking(
        tuple(names), ranks.mean(axis=0), systems, _friedman(ranks), critical_difference(count, systems, level)
    )


def _friedman(ranks: np.ndarray) -> float:
    """The probability that the statistic, corrected for ties, is exceeded by chance (chi-squared)."""
    systems, count = ranks.shape
    spread = float(((ranks - (count + 1) / 2) ** 2).sum()) / (systems * (count - 1))
    if spread == 0.0:
        return 1.0
    statistic = systems * float(((ranks.mean(axis=0) - (count + 1) / 2) ** 2).sum()) / spread
    return float(scipy.stats.chi2.sf(statistic, count - 1))


def critical_difference(count: int, systems: int, level: float = 0.05) -> float:
    """Nemenyi's: q sqrt(k (k + 1) / (6 N)), q the studentised range of k groups over the root of 2."""
    quantile = float(scipy.stats.studentized_range.ppf(1.0 - level, count, math.inf)) / math.sqrt(2.0)
    return quantile * math.sqrt(count * (count + 1) / (6.0 * systems))
