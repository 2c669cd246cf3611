"""Which law a falling loss obeys late in training, exponential or polynomial, and how fast."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Kind = Literal["exponential", "polynomial", "undecided"]

_BLOCKS = 12
_BORDER = 1 / 8
_LATE = 1 / 4


@dataclasses.dataclass(frozen=True)
class Decay:
    """How a series falls to 0 in the last three quarters of its steps.

    `bend` is the exponent with which the fall of the logarithm a step goes with the series: 0 for an exponential, 1 / p
    for 1 / step^p; its error is one standard error (delete-one-block jackknife). `rate` is the fall of the natural
    logarithm a step at the end, `rate_error` the largest difference of it over the last half.
    """

    kind: Kind
    bend: float
    bend_error: float
    rate: float
    rate_error: float

    @property
    def order(self) -> float:
        """P where the series falls like 1 / step^p; infinite where it falls exponentially or faster."""
        return 1 / self.bend if self.bend > 0 else math.inf


def classify_decay(steps: Sequence[int] | ArrayLike, values: ArrayLike, *, floor: float = 1e-24) -> Decay:
    """Tell an exponential from a polynomial fall of a positive series, with orders, rates and their errors.

    A series with dL/dt = -c L^(1 + s) falls exponentially for s = 0 and like (t + t0)^(-1/s) for s > 0, whatever t0: so
    the bend s is the slope of the logarithm of the local rate -d log L / dt over log L. It is fitted to blocks of equal
    length, after the first quarter of the steps and where the series is above `floor` times its largest value (below
    lies rounding). Two standard errors on one side of 1/8 (order 8) decide; a series that does not fall throughout is
    undecided, with NaN for what cannot be told.

    Raises:
        ValueError: there are fewer than two steps for each of the 12 blocks, or values that are not positive.
    """
    at, series = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if at.shape != series.shape or at.ndim != 1 or not (series > 0).all():
        raise ValueError("give one positive value for each step")
    low = np.flatnonzero(series <= floor * series.max())
    last = int(low[0]) if low.size else len(series)
    at, series = at[:last], series[:last]
    late = at >= at[0] + _LATE * (at[-1] - at[0]) if last else np.zeros(0, dtype=bool)
    if late.sum() < 2 * _BLOCKS:
        raise ValueError(f"{int(late.sum())} late steps above the floor: give at least {2 * _BLOCKS}")
    edges = np.linspace(at[late][0], at[-1], _BLOCKS + 1)
    logs = np.interp(edges, at[late], np.log(series[late]))
    rates = -np.diff(logs) / np.diff(edges)
    if not (rates > 0).all():
        return Decay("undecided", math.nan, math.nan, float(rates[-1]), math.nan)
    bend, error = _jackknife(0.5 * (logs[1:] + logs[:-1]), np.log(rates))
    kind: Kind = "polynomial" if bend > _BORDER else "exponential"
    if abs(bend - _BORDER) <= 2 * error:
        kind = "undecided"
    half = rates[_BLOCKS // 2 :]
    return Decay(kind, bend, error, float(rates[-1]), float(np.abs(half - rates[-1]).max()))


def _jackknife(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Least-squares slope of y over x, and its standard error from leaving out one point at a time."""
    left_out = np.array([_slope(np.delete(x, index), np.delete(y, index)) for index in range(len(x))])
    count = len(x)
    error = math.sqrt((count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum()))
    return _slope(x, y), error


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    centred = x - x.mean()
    return float(centred @ (y - y.mean()) / (centred @ centred))
