"""How good a reconstruction is: of forecasts, of the long run, of the spectrum.

Forecasts of a chaotic system fail in a few Lyapunov times however good the model; then what counts is whether its long
run visits the same states as often, and with the same spectrum of frequencies.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.ndimage
from jaxtyping import Float, Int

from separatrix.runs.errors import UsageError

_THRESHOLD = 0.4
_MOST_CELLS = 10**6
_TINY = 1e-12


def valid_times(
    forecast: Float[np.ndarray, "batch steps variable"],
    truth: Float[np.ndarray, "others length variable"],
    dt: float,
    exponent: float,
    spread: Float[np.ndarray, " variable"],
    threshold: float = _THRESHOLD,
) -> Float[np.ndarray, " batch"]:
    """Time until the error first exceeds `threshold`, in Lyapunov times 1 / `exponent` (Pathak et al. 2018).

    The error is the root mean square over variables, each in units of its `spread`, the standard deviation over the
    attractor. A forecast that never fails has the whole time, which is a lower bound.
    """
    if not exponent > 0:
        raise UsageError(f"the exponent {exponent} is not positive: valid times of regular systems have no such unit")
    errors = np.sqrt(np.mean(((_same(forecast, truth) - truth) / spread) ** 2, axis=2))
    failed = ~(errors <= threshold)
    steps = np.where(failed.any(axis=1), failed.argmax(axis=1), failed.shape[1])
    return np.asarray(steps * dt * exponent)


def smape(
    forecast: Float[np.ndarray, "*batch steps variable"], truth: Float[np.ndarray, "*others length variable"]
) -> float:
    """Symmetric mean absolute percentage error, 0 to 200; values that are not finite count as 200 (Makridakis 1993)."""
    gap, size = np.abs(_same(forecast, truth) - truth), np.abs(forecast) + np.abs(truth)
    shares = gap / np.where(size == 0, 1.0, size)
    return float(200.0 * np.mean(np.where(np.isfinite(shares), shares, 1.0)))


def normalised_error(
    forecast: Float[np.ndarray, "batch steps variable"],
    truth: Float[np.ndarray, "others length variable"],
    spread: Float[np.ndarray, " variable"],
) -> Float[np.ndarray, " steps"]:
    """Root mean square error at each step ahead, in spreads of each variable; infinite where a forecast went astray."""
    squares = np.mean(((_same(forecast, truth) - truth) / spread) ** 2, axis=(0, 2))
    return np.sqrt(np.where(np.isnan(squares), np.inf, squares))


def state_space_divergence(
    generated: Float[np.ndarray, "time variable"],
    truth: Float[np.ndarray, "steps variable"],
    *,
    bins: int = 30,
    method: str = "auto",
    seed: int = 0,
) -> float:
    """Kullback-Leibler divergence of the states visited, truth from generated, in nats (Koppe et al. 2019).

    `histogram` counts in `bins` intervals a variable over the range of the truth, everything outside in one further
    cell, and gives every cell of the truth a pseudo-count of one in the generated data; `mixture` puts a Gaussian of
    one tenth of a spread around each state and averages over 1,000 draws, for more variables than cells can hold;
    `auto` takes the histogram where there are at most a million cells. Infinite if the generated data are not finite.
    """
    if not np.isfinite(generated).all():
        return float("inf")
    if bins < 2 or method not in ("auto", "histogram", "mixture"):
        raise UsageError(f"bins={bins}, method={method!r}: give at least 2 bins, and auto, histogram or mixture")
    histogram = method == "histogram" or (method == "auto" and bins ** truth.shape[1] <= _MOST_CELLS)
    return Histogram.of(truth, bins).divergence(generated) if histogram else _by_mixture(generated, truth, seed)


@dataclasses.dataclass(frozen=True)
class Histogram:
    """States counted in `bins` intervals a variable: cells of the truth, rising, and how many of its states each has.

    Made once where many are compared with one truth.
    """

    low: Float[np.ndarray, " variable"]
    high: Float[np.ndarray, " variable"]
    bins: int
    cells: Int[np.ndarray, " cell"]
    counts: Int[np.ndarray, " cell"]

    @classmethod
    def of(cls, truth: Float[np.ndarray, "steps variable"], bins: int = 30) -> Histogram:
        """The cells of the truth."""
        low, high = truth.min(axis=0), truth.max(axis=0)
        return cls(low, high, bins, *np.unique(_cells(truth, low, high, bins), return_counts=True))

    def divergence(self, generated: Float[np.ndarray, "time variable"]) -> float:
        """Divergence of the truth from finite states, each cell with one more of these than there are."""
        found = _cells(generated, self.low, self.high, self.bins)
        if self.bins ** len(self.low) <= _MOST_CELLS:
            there = np.bincount(found + 1, minlength=self.cells[-1] + 2)[self.cells + 1]
        else:
            at = np.minimum(np.searchsorted(self.cells, found), len(self.cells) - 1)
            there = np.bincount(at[self.cells[at] == found], minlength=len(self.cells))
        p = self.counts / self.counts.sum()
        q = (there + 1.0) / (len(found) + len(self.cells))
        return float(np.sum(p * np.log(p / q)))


def _cells(values: np.ndarray, low: np.ndarray, high: np.ndarray, bins: int) -> np.ndarray:
    """The number of the cell of each state, -1 outside; a variable at a time, which numpy does many times faster."""
    width = np.where(high > low, high - low, 1.0) / bins
    cells, outside = np.zeros(len(values), dtype=np.int64), np.zeros(len(values), dtype=bool)
    for column, least, most, one in zip(values.T, low, high, width, strict=True):
        places = np.clip(np.floor((column - least) / one), -1, bins).astype(np.int64)
        places[(column == most) & (places == bins)] = bins - 1
        outside |= (places < 0) | (places >= bins)
        cells = cells * bins + places
    cells[outside] = -1
    return cells


def _by_mixture(generated: np.ndarray, truth: np.ndarray, seed: int) -> float:
    generator = np.random.default_rng(seed)
    spread = truth.std(axis=0)
    unit = 0.1 * np.where(spread > 0, spread, 1.0)
    draws = truth[generator.integers(len(truth), size=1000)] / unit
    draws = draws + generator.standard_normal(draws.shape)
    return float(np.mean(_log_density(draws, truth / unit) - _log_density(draws, generated / unit)))


def _log_density(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    logs = np.empty(len(points))
    for start in range(0, len(points), 50):
        block = points[start : start + 50]
        squares = np.sum((block[:, None] - centres) ** 2, axis=2)
        logs[start : start + 50] = np.logaddexp.reduce(-0.5 * squares, axis=1)
    return np.asarray(logs - np.log(len(centres)))


def power_spectrum_distance(
    generated: Float[np.ndarray, "time variable"],
    truth: Float[np.ndarray, "length variable"],
    *,
    smoothing: float = 2.0,
) -> float:
    """Hellinger distance of power spectra, 0 to 1, mean over variables (Mikhaeil et al. 2022).

    Spectra are of the series without their mean, smoothed by a Gaussian of `smoothing` frequencies, and sum to 1. Long
    series are needed: what leaks from the ends depends on the phase and counts as a difference.
    1 if the generated data are not finite.
    """
    if not np.isfinite(generated).all():
        return 1.0
    ours, theirs = (_power(_same(generated, truth), smoothing), _power(truth, smoothing))
    overlaps = np.sum(np.sqrt(ours * theirs), axis=0)
    return float(np.mean(np.sqrt(np.clip(1.0 - overlaps, 0.0, 1.0))))


def _power(series: np.ndarray, smoothing: float) -> np.ndarray:
    power = np.abs(np.fft.rfft(series - series.mean(axis=0), axis=0)) ** 2
    power = scipy.ndimage.gaussian_filter1d(power, smoothing, axis=0, mode="nearest") + _TINY * (power.max() + _TINY)
    return np.asarray(power / power.sum(axis=0))


def spectrum_error(estimated: np.ndarray, true: np.ndarray) -> float:
    """Largest distance of an estimated value from the nearest true one (directed Hausdorff distance)."""
    if not len(estimated) or not len(true):
        raise UsageError("one of the spectra is empty: give at least one value each")
    return float(np.abs(np.asarray(estimated)[:, None] - np.asarray(true)).min(axis=1).max())


def _same(forecast: np.ndarray, truth: np.ndarray) -> np.ndarray:
    if forecast.shape != truth.shape:
        raise UsageError(f"the forecast has shape {forecast.shape}, the truth {truth.shape}: compare equal stretches")
    return forecast
