"""Entropies, invariant measures and power spectra of series and trajectories."""

from __future__ import annotations

import math

import numpy as np
import scipy.signal
from jaxtyping import Float

from separatrix.runs.errors import UsageError


def permutation_entropy(values: Float[np.ndarray, " time"], *, order: int = 4, delay: int = 1) -> float:
    """The entropy in nats of the ranks of `order` values, `delay` points apart; log(order!) for noise.

    Equal values are ranked by time. Source: Bandt and Pompe (2002), Physical Review Letters 88, 174102.

    Raises:
        UsageError: the order or delay does not fit, or the series is too short or not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if not 2 <= order <= 8 or delay < 1:
        raise UsageError(f"permutation entropy needs an order of 2 to 8 and a positive delay, not {order} and {delay}")
    count = len(values) - (order - 1) * delay
    if values.ndim != 1 or count < 1 or not np.isfinite(values).all():
        raise UsageError(f"permutation entropy needs a finite series of more than {(order - 1) * delay} values")
    windows = np.stack([values[i * delay : i * delay + count] for i in range(order)], axis=1)
    ranks = np.argsort(windows, axis=1, kind="stable")
    codes = ranks @ (order ** np.arange(order))
    shares = np.unique(codes, return_counts=True)[1] / count
    return float(-(shares * np.log(shares)).sum())


def histogram_distance(
    first: Float[np.ndarray, "time dimension"], second: Float[np.ndarray, "time2 dimension"], *, bins: int = 20
) -> float:
    """The Hellinger distance of the invariant measures that two trajectories sample, in [0, 1].

    Both are counted in the same cells: `bins` a variable, over the range of `first`; what `second` does outside is
    counted in the outermost cells' neighbours, so that it adds to the distance.

    Raises:
        UsageError: dimensions differ, or a value is not finite.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or bins < 1:
        raise UsageError(f"trajectories of shapes {first.shape} and {second.shape} have no common cells")
    if not (len(first) and len(second) and np.isfinite(first).all() and np.isfinite(second).all()):
        raise UsageError("the distance of invariant measures needs finite points, at least one each")
    low, high = first.min(axis=0), first.max(axis=0)
    width = np.where(high > low, high - low, 1.0) / bins
    shares = []
    for values in (first, second):
        cells = np.clip(np.floor((values - low) / width), -1, bins).astype(np.int64)
        if values is first:
            cells = np.minimum(cells, bins - 1)  # the largest value belongs to the last cell
        shares.append((cells, len(values)))
    # the upper end of the range is in the last cell for both
    cells = np.concatenate([shares[0][0], np.where(second == high, bins - 1, shares[1][0])])
    _, codes = np.unique(cells, axis=0, return_inverse=True)
    codes = codes.ravel()
    size = int(codes.max()) + 1
    p = np.bincount(codes[: len(first)], minlength=size) / len(first)
    q = np.bincount(codes[len(first) :], minlength=size) / len(second)
    return math.sqrt(max(0.0, 1.0 - float(np.sqrt(p * q).sum())))


def power_spectrum(
    values: Float[np.ndarray, "time dimension"], dt: float, *, segments: int = 8
) -> tuple[Float[np.ndarray, " frequency"], Float[np.ndarray, "frequency dimension"]]:
    """Frequencies (cycles per time unit) and the power of each variable per unit of frequency (Welch's method).

    Means are removed; the integral over frequencies is the variance. Stretches overlap by half.

    Raises:
        UsageError: the series is too short for its segments, or not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    length = 2 * len(values) // (segments + 1)
    if values.ndim != 2 or length < 8 or not np.isfinite(values).all() or not 0 < dt < math.inf:
        raise UsageError(
            f"{len(values)} points of shape {values.shape} are too few, or not finite, for {segments} segments"
        )
    frequencies, power = scipy.signal.welch(values, 1.0 / dt, nperseg=length, detrend="constant", axis=0)
    return frequencies, power


def dominant_period(values: Float[np.ndarray, "time dimension"], dt: float, *, segments: int = 8) -> float:
    """The period at which most power per octave lies, over variables scaled to unit variance.

    Power per octave is frequency times power: broad, slow fluctuations, which have their power per unit of frequency at
    0, do not hide the rotation that is seen in a plot. NaN where nothing varies.

    Raises:
        UsageError: the series is too short for its segments, or not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    spread = values.std(axis=0)
    if not (spread > 0).any():
        return math.nan
    scaled = (values - values.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    frequencies, power = power_spectrum(scaled, dt, segments=segments)
    octaves = frequencies * power.sum(axis=1)
    peak = int(octaves[1:-1].argmax()) + 1
    # a parabola through the peak and its neighbours resolves it below the spacing of frequencies
    left, top, right = octaves[peak - 1 : peak + 2]
    curvature = left - 2 * top + right
    shift = 0.5 * (left - right) / curvature if curvature < 0 else 0.0
    return float(1.0 / (frequencies[peak] + shift * (frequencies[1] - frequencies[0])))
