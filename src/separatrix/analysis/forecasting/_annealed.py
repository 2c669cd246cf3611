"""Laws of a power of the area under the learning rates, less what annealing brings."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from separatrix.analysis.forecasting.areas import Rates, annealing_area, falls, forward_area, relaxed_falls
from separatrix.analysis.forecasting.curve import Curve
from separatrix.analysis.forecasting.fitting import Numbers, linear_start, robust_fit, spread

Constants = Mapping[str, float]

_EXPONENTS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4)
_EXPONENT_BOUNDS = (0.01, 3.0)
_DELAYS = (0.003, 0.01, 0.03, 0.1, 0.3)
_DELAY_BOUNDS = (math.log(1e-4), math.log(1.0))
_USUAL_DELAY = 0.02
"""A fall has its effect in this share of the longest curve, give or take a factor e, unless the curves say otherwise.

The first third of a cosine falls so slowly that they do not: fitted freely, the delay came out anywhere, and with it
what a steep fall brings (ten trainings of transformers: 1.16 % off with this, 1.50 without).
"""
_TINY = 1e-12
_NUDGE = 1e-5
_FALL = 0.02
"""Share of the highest rate that it must have fallen by for what falls bring to be seen."""


@dataclasses.dataclass(frozen=True)
class Scales:
    """Units in which constants are about one: highest rate, and the area and length of the longest curve."""

    peak: float
    area: float
    updates: int


@dataclasses.dataclass(frozen=True)
class Annealed:
    """What annealing brings, as a share of a full one: `share(rates, delay, scales)` by update.

    `delay` is how long a fall takes to have its effect, as a share of the longest curve. `constants(full, delay,
    scales)` are those of the law, `full` being what a full annealing brings; `inverse` leads back; `value(constants,
    rates)` is what is taken off the loss.
    """

    share: Callable[[Rates, float, Scales], Numbers]
    constants: Callable[[float, float, Scales], dict[str, float]]
    inverse: Callable[[Constants, Scales], tuple[float, float]]
    value: Callable[[Constants, Rates], Numbers]


def _memory(delay: float, scales: Scales) -> float:
    return math.exp(-1.0 / max(delay * scales.updates, 0.05))


def _memory_constants(full: float, delay: float, scales: Scales) -> dict[str, float]:
    memory = _memory(delay, scales)
    return {"annealing": full * (1.0 - memory) / scales.peak, "memory": memory}


def _memory_inverse(constants: Constants, scales: Scales) -> tuple[float, float]:
    memory = constants["memory"]
    delay = -1.0 / math.log(memory) / scales.updates if memory > 0 else _DELAYS[0]
    return constants["annealing"] * scales.peak / (1.0 - memory), delay


def _memory_share(rates: Rates, delay: float, scales: Scales) -> Numbers:
    memory = _memory(delay, scales)
    return annealing_area(rates, memory) * (1.0 - memory) / scales.peak


memory_of = Annealed(
    _memory_share,
    _memory_constants,
    _memory_inverse,
    lambda constants, rates: constants["annealing"] * annealing_area(rates, constants["memory"]),
)
relaxation_of = Annealed(
    lambda rates, delay, scales: relaxed_falls(rates, delay * scales.area) / scales.peak,
    lambda full, delay, scales: {"noise": full / scales.peak, "area": delay * scales.area},
    lambda constants, scales: (constants["noise"] * scales.peak, constants["area"] / scales.area),
    lambda constants, rates: constants["noise"] * relaxed_falls(rates, constants["area"]),
)


def fit_annealed(
    curves: Sequence[Curve], kind: Annealed | None, near: Constants | None
) -> tuple[dict[str, float], Numbers, bool]:
    """Constants, residuals and whether annealing was seen; without `kind`, or unseen, annealing brings nothing.

    The delay of a fall counts as one more point, as far from its usual one as residuals scatter.
    """
    losses = np.concatenate([curve.losses for curve in curves])
    logarithms = np.log(losses)
    scales = Scales(
        peak=max(float(curve.rates.max()) for curve in curves) or 1.0,
        area=max(float(curve.rates.sum()) for curve in curves) or 1.0,
        updates=max(len(curve.rates) for curve in curves),
    )
    area = np.maximum(_stacked(curves, forward_area) / scales.area, _TINY)
    seen = kind is not None and any(_falls(curve) for curve in curves)

    def shares(delay: float) -> Numbers:
        if kind is None or not seen:
            return np.zeros_like(area)
        share = kind.share
        return _stacked(curves, lambda rates: share(rates, delay, scales))

    def loss(parameters: Numbers, power: Numbers, share: Numbers) -> Numbers:
        floor, scale, _, full, _ = parameters
        value: Numbers = np.maximum(floor + scale * power - full * share, _TINY)
        return value

    def residuals(parameters: Numbers) -> Numbers:
        value = loss(parameters, area ** -parameters[2], shares(math.exp(parameters[4])))
        found: Numbers = np.log(value) - logarithms
        return found

    def jacobian(parameters: Numbers) -> Numbers:
        _, scale, exponent, full, delay = parameters
        power, share = area**-exponent, shares(math.exp(delay))
        slope = (shares(math.exp(delay + _NUDGE)) - share) / _NUDGE if seen else share
        columns = [np.ones_like(power), power, -scale * power * np.log(area), -share, -full * slope]
        slopes: Numbers = np.stack(columns, 1) / loss(parameters, power, share)[:, None]
        return slopes

    top = float(losses.max())
    low = np.array([0.0, 0.0, _EXPONENT_BOUNDS[0], 0.0, _DELAY_BOUNDS[0]])
    high = np.array([top, 100.0 * top, _EXPONENT_BOUNDS[1], 10.0 * top if seen else _TINY, _DELAY_BOUNDS[1]])
    if near is not None:
        full, delay = kind.inverse(near, scales) if kind is not None and seen else (0.0, _DELAYS[0])
        scale = near["scale"] * scales.area ** -near["exponent"]
        starts = [np.array([near["floor"], scale, near["exponent"], full, math.log(max(delay, 1e-4))])]
    else:
        starts = []
        for exponent, delay in itertools.product(_EXPONENTS, _DELAYS if seen else _DELAYS[:1]):
            floor, scale, full = linear_start(losses, area**-exponent, -shares(delay))
            starts.append(np.array([floor, scale, exponent, full, math.log(delay)]))
    found = robust_fit(residuals, jacobian, starts, (low, high))
    rest = found.residuals
    if seen:
        scatter, usual = spread(rest), math.log(_USUAL_DELAY)
        row = scatter * np.array([[0.0, 0.0, 0.0, 0.0, 1.0]])
        found = robust_fit(
            lambda parameters: np.append(residuals(parameters), scatter * (parameters[4] - usual)),
            lambda parameters: np.concatenate([jacobian(parameters), row]),
            [found.parameters],
            (low, high),
        )
        rest = found.residuals[:-1]
    floor, scale, exponent, full, delay = map(float, found.parameters)
    constants = {"floor": floor, "scale": scale * scales.area**exponent, "exponent": exponent}
    if kind is not None:
        constants |= kind.constants(full if seen else 0.0, math.exp(delay), scales)
    return constants, -rest, seen


def _stacked(curves: Sequence[Curve], of: Callable[[Rates], Numbers]) -> Numbers:
    return np.concatenate([of(curve.rates)[curve.updates - 1] for curve in curves])


def _falls(curve: Curve) -> bool:
    """Whether the rate had fallen by the curve's last point."""
    rates = curve.rates[: int(curve.updates[-1])]
    return float(falls(rates).sum()) >= _FALL * float(rates.max())
