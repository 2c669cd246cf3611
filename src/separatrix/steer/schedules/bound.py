r"""What convex theory says of a schedule: a bound on the last iterate's loss, and what minimises it.

For subgradient steps x_{t+1} = x_t - eta_t g_t on a convex function, stochastic or not, with E ||g_t||^2 <= G_t^2 and
||x_1 - x*|| = D, the iterate x_T, where the T-th gradient is taken, has E f(x_T) - f* at most

    D^2 / (2 S_1) + Q_1 / (2 S_1) + 1/2 sum_{k=1}^{T-1} eta_k / S_{k+1} * Q_k / S_k,

    S_k = sum_{t=k}^T eta_t,    Q_k = sum_{t=k}^T eta_t^2 G_t^2.

The last rate eta_T moves nothing that is bounded: where it is 0, the best positive number stands for it. Rates of 0
elsewhere leave the iterate as it is and the bound as well.

Closed forms with one G and the harmonic number H = 1 + 1/2 + ... + 1/(T-1): a constant rate r has

    D^2 / (2 T r) + r G^2 (1 + H) / 2,

linear decay r (T + 1 - t) / T has D^2 / ((T + 1) r) + r G^2 (1 + (H - 1/2) / T), without the logarithm.

Sources: Defazio et al. 2023, arXiv:2310.07831, theorem 10; Schaipp et al. 2025, arXiv:2501.18965, theorem 1, for its
use as a model of training curves, section 5 for base rates and extensions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from separatrix.steer.schedules.errors import ScheduleError
from separatrix.steer.schedules.schedule import Schedule

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class LastIterateBound:
    """The bound in its two parts: `distance` falls like one over the rate, `noise` grows in proportion to it.

    Both are in units of the loss.
    """

    distance: float
    noise: float

    @property
    def value(self) -> float:
        """The bound itself."""
        return self.distance + self.noise


@dataclasses.dataclass(frozen=True)
class BaseRate:
    """The factor on a schedule that minimises its bound, and the bound with it."""

    rate: float
    bound: float


def last_iterate_bound(
    learning_rates: ArrayLike, distance: float = 1.0, gradient_norm: ArrayLike = 1.0
) -> LastIterateBound:
    """Bound on f(x_T) - f* of the T-th iterate under the rates (T,), in O(T).

    `distance` is that of the start from an optimum, `gradient_norm` a bound on the gradients' norms: one number or
    (T,). All sums are of positive terms, so that the relative error is that of T roundings at most.

    Raises:
        ScheduleError: rates or norms are no rows of finite, non-negative numbers, sizes differ, or the distance is not
            positive.
    """
    rates = _rates(learning_rates)
    norms = _norms(gradient_norm, len(rates))
    _check_distance(distance)
    return _anywhere(rates, distance, norms)


def bound_curve(
    learning_rates: ArrayLike,
    distance: float = 1.0,
    gradient_norm: ArrayLike = 1.0,
    *,
    at: Sequence[int] | None = None,
) -> Float[np.ndarray, " points"]:
    """Bounds of the iterates where the losses of the steps `at` are measured, steps counted from 0; all by default.

    The bound at step t uses the rates of steps 0 to t. The cost is O(t) a point.

    Raises:
        ScheduleError: as `last_iterate_bound`; a step that is not among those of the rates.
    """
    rates = _rates(learning_rates)
    norms = _norms(gradient_norm, len(rates))
    _check_distance(distance)
    points = range(len(rates)) if at is None else at
    if any(not 0 <= point < len(rates) for point in points):
        raise ScheduleError(f"bounds at steps {min(points)} to {max(points)} of {len(rates)}: give steps of the rates")
    return np.array([_anywhere(rates[: t + 1], distance, norms[: t + 1]).value for t in points])


def best_base_rate(factors: ArrayLike, distance: float = 1.0, gradient_norm: ArrayLike = 1.0) -> BaseRate:
    """The base rate that minimises the bound of a schedule's factors (T,), and that bound, in O(T).

    With one gradient norm G the rate is proportional to D / G and the bound to D G, so that ratios of base rates
    between schedules or lengths, and the order of their bounds, need neither.

    Raises:
        ScheduleError: as `last_iterate_bound`; all factors or all gradient norms are zero.
    """
    rates = _rates(factors)
    norms = _norms(gradient_norm, len(rates))
    _check_distance(distance)
    if not (rates.any() and norms.any()):
        raise ScheduleError("all factors or all gradient norms are 0: no base rate is best; give those of a training")

    def best(last: float) -> BaseRate:
        parts = _anywhere(np.append(rates[:-1], last), distance, norms)
        return BaseRate(math.sqrt(parts.distance / parts.noise), 2 * math.sqrt(parts.distance * parts.noise))

    if rates[-1] > 0:
        return best(float(rates[-1]))
    typical = float(rates.max())
    return best(_minimised(lambda last: best(last).bound, 1e-9 * typical, 1e3 * len(rates) * typical))


def rank(
    schedules: Sequence[Schedule] | Mapping[str, ArrayLike], gradient_norm: ArrayLike = 1.0, distance: float = 1.0
) -> dict[str, BaseRate]:
    """Best base rate and bound of each schedule by its name, the lowest bound first.

    Schedules are ranked by what they reach at their own best base rate. `gradient_norm` may be the norms (T,) of a
    recorded run, where all schedules have its T steps.

    Raises:
        ScheduleError: as `last_iterate_bound`; no schedules, or two with one name.
    """
    if isinstance(schedules, Mapping):
        named = {name: np.asarray(factors, dtype=np.float64) for name, factors in schedules.items()}
    else:
        named = {schedule.name: schedule.values() for schedule in schedules}
        if len(named) < len(schedules):
            raise ScheduleError("several schedules share a name: give a mapping from names to factors")
    if not named:
        raise ScheduleError("no schedules to rank: give at least one")
    found = {name: best_base_rate(factors, distance, gradient_norm) for name, factors in named.items()}
    return dict(sorted(found.items(), key=lambda item: item[1].bound))


def extension_rate(
    done: ArrayLike, continuation: ArrayLike, distance: float = 1.0, gradient_norm: float = 1.0
) -> BaseRate:
    """The factor on a continuation (steps to come) that minimises the bound after rates that were already used.

    `done` holds the rates of the steps taken, without their cooldown, and `continuation` the rates of the steps to come
    as they would be if they went on at the same base rate. `distance` and `gradient_norm` must be those that make the
    base rate of the first horizon its best; `scale_of` gives their ratio.

    Raises:
        ScheduleError: as `last_iterate_bound`.

    Source: Schaipp et al. 2025, arXiv:2501.18965, section 5.1.
    """
    before, after = _rates(done), _rates(continuation)

    def bound(factor: float) -> float:
        return last_iterate_bound(np.concatenate([before, factor * after]), distance, gradient_norm).value

    best = _minimised(bound, 1e-6, 1e6)
    return BaseRate(best, bound(best))


def scale_of(factors: ArrayLike, rate: float) -> float:
    """The ratio D / G for which `rate` is the best base rate of a schedule's factors: what tuning it has told.

    Raises:
        ScheduleError: as `last_iterate_bound`, or the rate is not positive.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise ScheduleError(f"rate={rate}: give the positive base rate that was found best")
    return rate / best_base_rate(factors).rate


def _bound(rates: Floats, distance: float, norms: Floats) -> LastIterateBound:
    """The theorem's sum; all rates are positive."""
    remaining = np.cumsum(rates[::-1])[::-1]
    squares = np.cumsum((rates * norms)[::-1] ** 2)[::-1]
    later = np.sum(rates[:-1] / remaining[1:] * squares[:-1] / remaining[:-1])
    return LastIterateBound(float(distance**2 / (2 * remaining[0])), float(squares[0] / (2 * remaining[0]) + later / 2))


def _anywhere(rates: Floats, distance: float, norms: Floats) -> LastIterateBound:
    """The bound where rates may be 0."""
    moving = rates > 0
    moving[-1] = True
    rates, norms = rates[moving], norms[moving]
    if rates[-1] > 0:
        return _bound(rates, distance, norms)

    def bound(last: float) -> LastIterateBound:
        return _bound(np.append(rates[:-1], last), distance, norms)

    if not norms.any():
        return LastIterateBound(0.0, 0.0)
    scales = [distance / float(norms.max()), *rates[:-1]]
    return bound(_minimised(lambda last: bound(last).value, 1e-9 * min(scales), 1e3 * len(rates) * max(scales)))


def _minimised(function: Callable[[float], float], low: float, high: float) -> float:
    """Argument of the least value between two positive ones, to a relative 1e-6."""
    from scipy.optimize import minimize_scalar

    grid = np.geomspace(low, high, 4 * math.ceil(math.log10(high / low)) + 1)
    least = int(np.argmin([function(float(point)) for point in grid]))
    ends = grid[max(least - 1, 0)], grid[min(least + 1, len(grid) - 1)]
    found = minimize_scalar(
        lambda log: function(math.exp(log)), bounds=np.log(ends), method="bounded", options={"xatol": 1e-6}
    )
    return math.exp(float(found.x))


def _check_distance(distance: float) -> None:
    if not (math.isfinite(distance) and distance > 0):
        raise ScheduleError(f"distance={distance}: give the positive distance of the start from an optimum")


def _rates(given: ArrayLike) -> Floats:
    rates = np.asarray(given, dtype=np.float64)
    if rates.ndim != 1 or not rates.size or not np.isfinite(rates).all() or (rates < 0).any():
        raise ScheduleError(f"learning rates of shape {rates.shape}: give a row of finite numbers, none negative")
    return rates


def _norms(given: ArrayLike, count: int) -> Floats:
    norms = np.asarray(given, dtype=np.float64)
    if norms.shape not in ((), (count,)) or not np.isfinite(norms).all() or (norms < 0).any():
        raise ScheduleError(
            f"gradient norms of shape {norms.shape} for {count} learning rates: give one finite number, none negative,"
            " or one a step"
        )
    return np.broadcast_to(norms, (count,)).copy()
