"""Laws of loss curves: what they are and how they are fitted; each is in a file with its likes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from separatrix.analysis.forecasting._annealed import Annealed, fit_annealed, memory_of, relaxation_of
from separatrix.analysis.forecasting._plain import fit_last, fit_power, power_value
from separatrix.analysis.forecasting.areas import Rates
from separatrix.analysis.forecasting.curve import Curve
from separatrix.analysis.forecasting.fitting import Numbers
from separatrix.runs.errors import UsageError

Constants = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A law with its constants, fitted to curves.

    `residuals` (points,), logarithms of measured minus those of fitted losses, has the curves' points one after
    another. `annealed` says whether the curves hold falls of the rate: if not, what falls bring is unknown, and taken
    as nothing.
    """

    law: str
    constants: Constants
    residuals: Float64[np.ndarray, " points"]
    annealed: bool = True

    def predict(self, rates: Rates) -> Float64[np.ndarray, " updates"]:
        """The loss after each update of a training with these learning rates."""
        return LAWS[self.law].value(self.constants, rates)


@dataclasses.dataclass(frozen=True)
class Law:
    """A law of loss curves.

    `fit(curves, near)` gives constants, residuals and whether there was annealing, from constants nearby if given;
    `value(constants, rates)` losses by update; `fewest` is the number of losses below which nothing is fitted.
    """

    name: str
    says: str
    fit: Callable[[Sequence[Curve], Constants | None], tuple[dict[str, float], Numbers, bool]]
    value: Callable[[Constants, Rates], Numbers]
    fewest: int


def fit(curves: Sequence[Curve], law: str, *, near: Constants | None = None) -> Fitted:
    """Fit a law to one or more curves of the same model and data; `near` are constants to start from.

    Raises:
        UsageError: there is no such law, or too few points for its constants.
    """
    if law not in LAWS:
        raise UsageError(f"there is no law {law!r} of loss curves: choose from {', '.join(LAWS)}")
    points = sum(len(curve.updates) for curve in curves)
    if points < LAWS[law].fewest:
        raise UsageError(f"{points} losses are too few to fit the law {law!r}: give at least {LAWS[law].fewest}")
    constants, residuals, annealed = LAWS[law].fit(curves, near)
    return Fitted(law, constants, residuals, annealed)


def _annealed_law(name: str, says: str, annealed: Annealed | None, fewest: int) -> Law:
    def value(constants: Constants, rates: Rates) -> Numbers:
        power = np.maximum(np.cumsum(rates), 1e-12) ** -constants["exponent"]
        loss: Numbers = constants["floor"] + constants["scale"] * power
        if annealed is not None:
            loss = loss - annealed.value(constants, rates)
        positive: Numbers = np.maximum(loss, 1e-12)
        return positive

    return Law(name, says, lambda curves, near: fit_annealed(curves, annealed, near), value, fewest)


LAWS: Mapping[str, Law] = {
    law.name: law
    for law in (
        _annealed_law("annealing", "floor + scale S1^-exponent - annealing S2(memory)", memory_of, 8),
        _annealed_law("relaxation", "floor + scale S1^-exponent - noise F(area)", relaxation_of, 8),
        _annealed_law("forward", "floor + scale S1^-exponent", None, 6),
        Law("power", "floor + scale updates^-exponent", fit_power, power_value, 6),
        Law("last", "floor", fit_last, lambda constants, rates: np.full(len(rates), constants["floor"]), 1),
    )
}
"""By name. S1 is `forward_area`, S2 `annealing_area`, F `relaxed_falls`.

Sources: Tissue et al. 2024, arXiv:2408.11029, equation 1, for `annealing` (its lambda is fitted too); `relaxation` as
in `relaxed_falls`; `forward` is either without annealing; `power` and `last` are what they are measured against.
"""
