"""Dimensions of attractors: from exponents (Kaplan and Yorke), from distances (correlation dimension)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from separatrix.runs.errors import UsageError


def kaplan_yorke(exponents: Float[np.ndarray, " exponent"] | Sequence[float], *, complete: bool = True) -> float:
    """The dimension at which the sum of the largest exponents, interpolated, becomes zero.

    0 where even the largest is negative; the number of exponents where no sum is negative and the spectrum is
    `complete`, else NaN. Source: Kaplan and Yorke (1979), Lecture Notes in Mathematics 730, 204.

    Raises:
        UsageError: there is no exponent, or one is not finite.
    """
    ordered = np.sort(np.asarray(exponents, dtype=np.float64))[::-1]
    if not ordered.size or not np.isfinite(ordered).all():
        raise UsageError("the Kaplan-Yorke dimension needs finite exponents, at least one")
    sums = np.cumsum(ordered)
    if sums[0] < 0:
        return 0.0
    below = np.flatnonzero(sums < 0)
    if not below.size:
        return float(len(ordered)) if complete else math.nan
    last = int(below[0])
    return float(last + sums[last - 1] / abs(ordered[last]))


@dataclasses.dataclass(frozen=True)
class Dimension:
    """An estimate of the correlation dimension with its standard error, the radius and the pairs it comes from."""

    value: float
    error: float
    radius: float
    pairs: int


def correlation_dimension(
    values: Float[np.ndarray, "time dimension"],
    *,
    window: int,
    share: float = 1e-3,
    references: int = 500,
    seed: int = 0,
) -> Dimension:
    """Takens' maximum-likelihood estimate from the pairs of points that are closer than a radius.

    The radius holds `share` of all pairs. Pairs closer in time than `window` points are left out: they measure the
    trajectory, not the attractor (Theiler 1986). The error is that of the mean over `references` points, whose
    neighbourhoods are taken as independent. Variables are used as they are: scale them first if their units differ.
    Source: Takens (1985), Lecture Notes in Mathematics 1125, 99; Grassberger and Procaccia (1983).

    Raises:
        UsageError: points are too few for the window and the share, not finite, or all the same.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise UsageError(f"a correlation dimension needs finite points of shape (time, dimension), not {values.shape}")
    if window < 1 or len(values) < 4 * window or len(values) < 1000:
        raise UsageError(
            f"{len(values)} points are too few for a correlation dimension: give 1,000, and four times the window of"
            f" {window}, at least"
        )
    chosen = np.random.default_rng(seed).choice(len(values), min(references, len(values)), replace=False)
    position = np.arange(len(values))
    rows = []
    for index in chosen:
        distance = np.sqrt(((values - values[index]) ** 2).sum(axis=1))
        rows.append(np.where(np.abs(position - index) >= window, distance, np.inf))
    distances = np.sort(np.stack(rows), axis=1)
    kept = distances[np.isfinite(distances) & (distances > 0)]
    if kept.size == 0:
        raise UsageError("all points are the same: they have no correlation dimension")
    radius = float(np.quantile(kept, share))
    close = (distances < radius) & (distances > 0)
    logarithms = np.where(close, np.log(radius / np.where(close, distances, radius)), 0.0)
    sums, counts = logarithms.sum(axis=1), close.sum(axis=1)
    mean = sums.sum() / counts.sum()
    # the ratio's variance, with each reference as one observation (delta method)
    residual = sums - mean * counts
    error = math.sqrt(float((residual**2).sum())) / counts.sum()
    return Dimension(float(1 / mean), float(error / mean**2), radius, int(counts.sum()))
