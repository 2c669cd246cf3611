"""Change points: where the level of a series jumps."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from separatrix.runs.errors import UsageError

_GAUSSIAN_MAD = 1.4826
_FEWEST = 8


def change_points(values: Float[np.ndarray, " steps *series"], *, shortest: int = 2) -> tuple[int, ...]:
    """Positions at which a new level begins, rising; of several series, levels that change together.

    The levels minimise squared residuals in units of the noise plus a penalty of (d + 2) log n for each change, d the
    number of series: a BIC in which a change costs its d levels and its place twice. The noise of each series is 1.4826
    times the median size of its first differences over sqrt(2), so that units do not matter; it is taken to be
    independent from step to step. A slope becomes a staircase: detrend first. A series without noise changes
    wherever its level does.

    Args:
        values: finite numbers (steps,) or (steps, series).
        shortest: fewest steps between changes.

    Raises:
        UsageError: the values are not finite, or fewer than eight.

    Cost: linear in the steps for many changes, quadratic at worst. Source: Killick, Fearnhead and Eckley 2012,
    arXiv:1101.1438; the penalty is that of Zhang and Siegmund 2007, Biometrics 63.
    """
    from ruptures import KernelCPD

    table = np.asarray(values, dtype=np.float64)
    table = table.reshape(len(table), -1) if table.size else table
    if len(table) < _FEWEST or not np.isfinite(table).all():
        raise UsageError(
            f"change points need at least {_FEWEST} finite values a series, got {len(table)}"
            f"{'' if np.isfinite(table).all() else ', some not finite'}: give a longer or cleaned series"
        )
    scaled = table / noise_level(table)
    penalty = (table.shape[1] + 2) * math.log(len(table))
    ends: list[int] = (
        KernelCPD(kernel="linear", min_size=shortest).fit(scaled - scaled.mean(axis=0)).predict(pen=penalty)
    )
    return tuple(int(end) for end in ends[:-1])


def noise_level(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Robust standard deviation of the noise of each column of (steps, series), at least 1e-6 of its range."""
    jumps = np.abs(np.diff(table, axis=0))
    noise = _GAUSSIAN_MAD * np.median(jumps, axis=0) / math.sqrt(2.0)
    spread = np.ptp(table, axis=0)
    return np.asarray(np.maximum(noise, np.where(spread > 0, 1e-6 * spread, 1.0)))
