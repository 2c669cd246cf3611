"""What a schedule amounts to: the area under its learning rates, and how much of its annealing has taken effect."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from separatrix.runs.errors import UsageError

Rates = Float64[np.ndarray, " updates"]
Schedule = Rates | Callable[[int], float]
"""Learning rates by update, as an array or as a function of the number of updates before."""


def rates_of(schedule: Schedule, updates: int) -> Rates:
    """The learning rates of the first `updates` updates; a function is called with 0, 1, ... updates - 1.

    Raises:
        UsageError: there are no updates, the array is shorter, or a rate is negative or no number.
    """
    if updates < 1:
        raise UsageError(f"a schedule of {updates} steps trains nothing: give at least 1")
    if callable(schedule):
        rates = np.array([float(schedule(update)) for update in range(updates)], dtype=np.float64)
    else:
        rates = np.asarray(schedule, dtype=np.float64)
        if rates.ndim != 1 or len(rates) < updates:
            raise UsageError(f"a schedule of shape {rates.shape} holds no {updates} steps: give a rate for each")
        rates = rates[:updates]
    if not (np.isfinite(rates).all() and (rates >= 0).all()):
        raise UsageError("a schedule holds rates that are negative or no numbers: give finite rates of at least 0")
    return rates


def forward_area(rates: Rates) -> Rates:
    """S1: the sum of the learning rates up to each update, by which the loss follows a power law."""
    return np.cumsum(rates)


def annealing_area(rates: Rates, memory: float) -> Rates:
    """S2 after each update: the sum of a momentum m_i = memory m_(i-1) + rate_(i-1) - rate_i that falls feed.

    A warm-up, the rise to the highest rate at the start, feeds nothing; later rises count against. `memory` lies in
    [0, 1): what a fall of the rate brings builds up over about 1 / (1 - memory) updates.

    Source: Tissue et al. 2024, arXiv:2408.11029, equation 1 (memory is its lambda).
    """
    from scipy.signal import lfilter

    return np.cumsum(np.asarray(lfilter([1.0], [1.0, -memory], falls(rates)), dtype=np.float64))


def relaxed_falls(rates: Rates, area: float) -> Rates:
    """After each update: every fall of the rate before, times 1 - exp(-S / area), S the sum of the rates since.

    Under SGD on a quadratic of curvature h gradient noise holds the loss above its minimum by an amount that is
    proportional to the rate, and that relaxes to what a new rate asks for as exp(-2 h S). That is so exactly while rate
    times h is small; `area` is 1 / (2 h). Falls and rises as in `annealing_area`.

    Source: derived as said; Luo et al. 2025, arXiv:2503.12811, equation 1, has a power law in the place of the
    exponential, which it is after an average over curvatures.
    """
    drops = falls(rates)
    before = np.cumsum(rates) - rates
    reached = (before + rates) / area
    total = np.cumsum(drops)
    for sign in (1.0, -1.0):
        if (sign * drops > 0).any():
            with np.errstate(divide="ignore"):
                growing = np.logaddexp.accumulate(np.log(np.maximum(sign * drops, 0.0)) + before / area)
            total = total - sign * np.exp(growing - reached)
    return total


def falls(rates: Rates) -> Rates:
    """By how much each rate is below the one before; 0 up to the first fall, so that a warm-up counts as none."""
    found = -np.diff(rates, prepend=rates[:1])
    falling = np.flatnonzero(found > 0)
    found[: falling[0] if falling.size else len(found)] = 0.0
    return found
