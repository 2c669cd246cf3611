"""A zoo of chaotic systems: how chaotic each is, how well it is forecast, and which equations are found in its data.

Twenty flows of three variables are simulated anew. Largest Lyapunov exponents are recomputed and set beside accepted
values where there are any (Lorenz 0.9056, Rössler 0.0714, Sprott's case B 0.210: Sprott 2003, appendix A) and beside
the table published with the systems; an echo-state network and a linear autoregression forecast one period ahead; and
sparse regression looks for the equations of those that are quadratic.

The published table is not claimed to be right, because it is not: of these twenty, fourteen exponents lie over 10 %
from what is found here (Lorenz 1.091 against 0.906, Thomas 0.76 against 0.49, Hadley 0.31 against 0.21). It does rank
the systems as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.stats
from jaxtyping import Float

from separatrix.reconstruct import fit, trajectories
from separatrix.reconstruct.scores import normalised_error
from separatrix.studies.study import (
    Control,
    Outcome,
    Paper,
    Plan,
    Progress,
    Setting,
    Settings,
    Statement,
    Study,
)
from separatrix.systems import System, find_system, lyapunov_spectrum, simulate

_SYSTEMS = (
    "Aizawa",
    "Arneodo",
    "Bouali",
    "BurkeShaw",
    "Chen",
    "Dadras",
    "Finance",
    "Hadley",
    "Halvorsen",
    "Lorenz",
    "NoseHoover",
    "RabinovichFabrikant",
    "Rossler",
    "Rucklidge",
    "SprottA",
    "SprottB",
    "SprottC",
    "SprottD",
    "SprottE",
    "Thomas",
)
_ACCEPTED = {"Lorenz": 0.9056, "Rossler": 0.0714, "SprottB": 0.210}
_QUADRATIC = ("Lorenz", "Rossler", "Chen", "Halvorsen", "SprottB", "BurkeShaw", "Rucklidge")
_NOT_POLYNOMIAL = ("Thomas", "Chua")
_MODELS: dict[str, tuple[str, Settings]] = {
    "echo-state": ("echo-state", {}),
    "var": ("var", {}),
    "longer": ("var", {"lags": 8}),
}
_STARTS = 20
_HISTORY = 100
_LEFT_OUT = 20.0  # periods


@dataclasses.dataclass(frozen=True)
class _Found:
    system: System
    exponent: float
    errors: dict[str, float]


def _exponent(system: System, periods: float, seed: int) -> float:
    time = periods * system.period
    return float(lyapunov_spectrum(system, time=time, copies=16, count=1, seed=seed).exponents[0])


def _errors(system: System, settings: Settings, seed: int) -> dict[str, float]:
    """Error one period ahead, in spreads: median over starts, by model."""
    period = settings["points_per_period"]
    learnt, tested = (
        simulate(
            system,
            settings["points"],
            points_per_period=period,
            copies=1,
            transient=_LEFT_OUT * system.period,
            seed=2 * seed + half,
        ).observed[0]
        for half in (0, 1)
    )
    spread = learnt.std(axis=0)
    starts = np.linspace(_HISTORY, len(tested) - period, _STARTS).astype(int)
    histories = np.stack([tested[at - _HISTORY : at] for at in starts])
    truth = np.stack([tested[at : at + period] for at in starts])
    found = {}
    for name, (model, given) in _MODELS.items():
        learner = fit(trajectories(learnt, system.period / period), model, seed=seed, **given)
        forecast = learner.forecast(histories, period)
        each = [
            normalised_error(one[None], other[None], spread)[-1] for one, other in zip(forecast, truth, strict=True)
        ]
        found[name] = float(np.median(np.minimum(each, 10.0)))
    return found


def _equations_off(name: str, settings: Settings, seed: int) -> float:
    """Root mean square error of the derivative found, over the derivative's own root mean square."""
    system = find_system(name)
    period = settings["points_per_period"]
    transient = _LEFT_OUT * system.period
    path = simulate(system, settings["points"], points_per_period=period, transient=transient, copies=1, seed=seed)
    values = path.values[0]
    model = fit(trajectories(values, path.dt), "sindy", degree=2, members=5, seed=seed).model
    found = model.right_hand_side(values)  # type: ignore[attr-defined]
    true = system.rhs(values)
    return float(np.sqrt(np.mean((found - true) ** 2) / np.mean(true**2)))


def _rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    return float(scipy.stats.spearmanr(one, other).statistic)


def _shuffled(values: Sequence[float], seed: int) -> Float[np.ndarray, " system"]:
    return np.random.default_rng(seed).permutation(values)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    periods = settings["periods"] * (1 if quick else 4)
    found = []
    for name in _SYSTEMS:
        system = find_system(name)
        found.append(_Found(system, _exponent(system, periods, seed), _errors(system, settings, seed)))
        progress()
    accepted = [abs(_exponent(find_system(name), 4 * periods, seed) / value - 1.0) for name, value in _ACCEPTED.items()]
    progress()
    right, wrong = ([_equations_off(name, settings, seed) for name in names] for names in (_QUADRATIC, _NOT_POLYNOMIAL))
    progress()
    published = [float((each.system.published.exponents or (np.nan,))[0]) for each in found]
    own = [each.exponent for each in found]
    chaos = [each.exponent * each.system.period for each in found]
    by_model = {model: [each.errors[model] for each in found] for model in _MODELS}
    measured = {
        "exponents_are_the_accepted_ones": max(accepted),
        "the_published_table_ranks_alike": _rank_correlation(own, published),
        "chaos_makes_forecasts_fail": _rank_correlation(chaos, by_model["echo-state"]),
        "a_network_forecasts_better_than_a_line": float(
            np.median(np.divide(by_model["var"], np.maximum(by_model["echo-state"], 1e-12)))
        ),
        "equations_are_found": float(np.median(right)),
    }
    controls = {
        "published_instead": max(
            abs(float((find_system(name).published.exponents or (np.nan,))[0]) / value - 1.0)
            for name, value in _ACCEPTED.items()
        ),
        "shuffled_table": _rank_correlation(own, _shuffled(published, seed).tolist()),
        "shuffled_exponents": _rank_correlation(_shuffled(chaos, seed).tolist(), by_model["echo-state"]),
        "a_longer_line": float(np.median(np.divide(by_model["var"], by_model["longer"]))),
        "not_polynomial": float(np.median(wrong)),
    }
    series = {"exponent": own, "published": published, **{f"error_{m}": e for m, e in by_model.items()}}
    return Outcome(measured, controls, series)


def _plan(settings: Settings, quick: bool) -> Plan:
    periods = settings["periods"] * (1 if quick else 4)
    return Plan(runs=len(_SYSTEMS) + 2, seconds=0.4 + 0.03 * periods + 2e-4 * settings["points"])


study = Study(
    id="61",
    slug="chaos-zoo",
    paper=Paper(
        title="Chaos as an interpretable benchmark for forecasting and data-driven modelling",
        authors=("William Gilpin",),
        year=2021,
        url="https://arxiv.org/abs/2110.05266",
    ),
    summary="The more chaotic a system is, the harder it is to forecast, and its equations can be found in its data.",
    settings=(
        Setting("periods", "float", 20.0, "of which exponents are taken (four times as many in full)", 15.0, 60.0),
        Setting("points", "int", 2000, "learnt of each system", 1500, 6000),
        Setting("points_per_period", "int", 100, "of each system", 60, 240),
    ),
    statements=(
        Statement(
            "exponents_are_the_accepted_ones",
            "at_most",
            0.05,
            "Largest relative distance of a largest exponent from the accepted value, of three systems.",
        ),
        Statement(
            "the_published_table_ranks_alike",
            "at_least",
            0.8,
            "Spearman correlation of the exponents found and published.",
        ),
        Statement(
            "chaos_makes_forecasts_fail",
            "at_least",
            0.44,
            "Spearman correlation of exponent times period and the error one period ahead; of 20, 1 in 40 by chance.",
        ),
        Statement(
            "a_network_forecasts_better_than_a_line",
            "at_least",
            2.0,
            "Median over systems of the error of a linear autoregression over that of an echo-state network.",
        ),
        Statement(
            "equations_are_found",
            "at_most",
            0.02,
            "Median over quadratic systems of the error of the derivative found, over the derivative.",
        ),
    ),
    controls=(
        Control("published_instead", "exponents_are_the_accepted_ones", "The published table instead."),
        Control("shuffled_table", "the_published_table_ranks_alike", "The published table, shuffled."),
        Control("shuffled_exponents", "chaos_makes_forecasts_fail", "Exponents shuffled."),
        Control("a_longer_line", "a_network_forecasts_better_than_a_line", "An autoregression on eight samples."),
        Control("not_polynomial", "equations_are_found", "Systems that are not polynomial."),
    ),
    plan=_plan,
    run=_run,
    smoke={"periods": 15.0, "points": 1500},
)
