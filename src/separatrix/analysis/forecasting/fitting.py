"""Robust fits: Huber's loss of the differences of logarithms, from many starts, within bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64

Numbers = Float64[np.ndarray, "..."]
Residuals = Callable[[Numbers], Numbers]
"""From parameters (parameters,) to differences of logarithms (points,)."""

HUBER_WIDTH = 1e-3
"""Differences of logarithms from which on they count linearly, as in the papers on scaling laws."""

_REFINED = 6
_STEPS = 200
_FINE = 1e-8
_ROUGH = 1e-5
_EFFICIENT = 1.345
_GAUSSIAN_MAD = 1.4826


@dataclasses.dataclass(frozen=True)
class Fit:
    """Parameters (parameters,), their Huber loss, and the residuals (points,), fitted minus measured logarithms."""

    parameters: Numbers
    cost: float
    residuals: Numbers


def huber(residuals: Numbers, width: float = HUBER_WIDTH) -> float:
    """Sum of Huber's loss: half the square up to `width`, linear beyond."""
    size = np.abs(residuals)
    return float(np.where(size <= width, 0.5 * size**2, width * (size - 0.5 * width)).sum())


def spread(values: Numbers) -> float:
    """Standard deviation of normal values, from their median absolute deviation."""
    return _GAUSSIAN_MAD * float(np.median(np.abs(values - np.median(values))))


def robust_fit(
    residuals: Residuals,
    jacobian: Callable[[Numbers], Numbers],
    starts: Sequence[Numbers],
    bounds: tuple[Numbers, Numbers],
) -> Fit:
    """The parameters of least Huber loss that the best few of the starts lead to.

    Each start is moved into the bounds; a single one counts as close to the end, which is then found roughly. The width
    is `HUBER_WIDTH`, or 1.345 standard deviations of the scatter where that is wider: so much keeps 95 % of the
    precision of least squares, while a width far inside the scatter would waste a third of the data. Equal arguments
    give equal numbers.

    Sources: Hoffmann et al. 2022, arXiv:2203.15556, section 3.3, for Huber's loss of logarithms from a grid of starts;
    Huber 1964, Ann. Math. Statist. 35, 73, for the width.
    """
    low, high = bounds
    reach = 1e-9 * np.maximum(high - low, 0.0)
    inside = [np.clip(start, low + reach, high - reach) for start in starts]
    tolerance = _FINE
    if len(inside) > 1:
        inside.sort(key=lambda start: huber(residuals(start)))
        found = [_descended(residuals, jacobian, start, bounds, HUBER_WIDTH) for start in inside[:_REFINED]]
        best = min(found, key=lambda parameters: huber(residuals(parameters)))
    else:
        best, tolerance = inside[0], _ROUGH
    rest = residuals(best)
    width = max(HUBER_WIDTH, _EFFICIENT * spread(rest))
    best = _descended(residuals, jacobian, np.clip(best, low + reach, high - reach), bounds, width, tolerance)
    rest = residuals(best)
    return Fit(best, huber(rest, width), rest)


def _descended(
    residuals: Residuals,
    jacobian: Callable[[Numbers], Numbers],
    start: Numbers,
    bounds: tuple[Numbers, Numbers],
    width: float,
    tolerance: float = _FINE,
) -> Numbers:
    from scipy.optimize import least_squares

    found = least_squares(
        residuals,
        start,
        jac=jacobian,
        bounds=bounds,
        loss="huber",
        f_scale=width,
        x_scale="jac",
        ftol=tolerance,
        max_nfev=_STEPS,
    )
    return np.asarray(found.x, dtype=np.float64)


def linear_start(losses: Numbers, *columns: Numbers) -> Numbers:
    """Non-negative constants of a constant and `columns` (points,) of least sum of squared relative errors."""
    from scipy.optimize import nnls

    found, _ = nnls(np.stack([np.ones_like(losses), *columns], 1) / losses[:, None], np.ones_like(losses))
    return np.asarray(found, dtype=np.float64)
