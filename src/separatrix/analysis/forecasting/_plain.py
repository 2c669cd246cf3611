"""Laws that know nothing of learning rates: a power of the number of updates, and the last value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from separatrix.analysis.forecasting.areas import Rates
from separatrix.analysis.forecasting.curve import Curve
from separatrix.analysis.forecasting.fitting import Numbers, linear_start, robust_fit

_EXPONENTS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4)
_EXPONENT_BOUNDS = (0.01, 3.0)
_TINY = 1e-12
_LAST = 20


def power_value(constants: Mapping[str, float], rates: Rates) -> Numbers:
    """The floor and a power of the number of updates, after each update."""
    updates = np.arange(1, len(rates) + 1, dtype=np.float64)
    return constants["floor"] + constants["scale"] * updates ** -constants["exponent"]


def fit_power(curves: Sequence[Curve], near: Mapping[str, float] | None) -> tuple[dict[str, float], Numbers, bool]:
    """Constants and residuals of a power law in the number of updates."""
    losses = np.concatenate([curve.losses for curve in curves])
    updates = np.concatenate([curve.updates for curve in curves]).astype(np.float64)
    unit = float(updates.max())

    def loss(parameters: Numbers) -> Numbers:
        floor, scale, exponent = parameters
        value: Numbers = np.maximum(floor + scale * (updates / unit) ** -exponent, _TINY)
        return value

    def jacobian(parameters: Numbers) -> Numbers:
        _, scale, exponent = parameters
        power = (updates / unit) ** -exponent
        columns = [np.ones_like(power), power, -scale * power * np.log(updates / unit)]
        slopes: Numbers = np.stack(columns, 1) / loss(parameters)[:, None]
        return slopes

    top = float(losses.max())
    bounds = np.array([0.0, 0.0, _EXPONENT_BOUNDS[0]]), np.array([top, 100.0 * top, _EXPONENT_BOUNDS[1]])
    if near is not None:
        starts = [np.array([near["floor"], near["scale"] * unit ** -near["exponent"], near["exponent"]])]
    else:
        starts = []
        for exponent in _EXPONENTS:
            floor, scale = linear_start(losses, (updates / unit) ** -exponent)
            starts.append(np.array([floor, scale, exponent]))
    found = robust_fit(lambda p: np.log(loss(p)) - np.log(losses), jacobian, starts, bounds)
    floor, scale, exponent = map(float, found.parameters)
    return {"floor": floor, "scale": scale * unit**exponent, "exponent": exponent}, -found.residuals, True


def fit_last(curves: Sequence[Curve], near: Mapping[str, float] | None) -> tuple[dict[str, float], Numbers, bool]:
    """The least of the curves' last values, each the median of a curve's last twentieth."""
    del near
    last = min(float(np.median(curve.losses[-max(1, len(curve.losses) // _LAST) :])) for curve in curves)
    return {"floor": last}, np.log(np.concatenate([curve.losses for curve in curves]) / last), True
