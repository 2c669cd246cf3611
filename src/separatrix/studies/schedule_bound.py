"""A bound of convex optimization that ranks learning-rate schedules, and how far small transformers follow it.

Exactly: subgradient descent on |x|, on absolute regression and on the worst function for its own rates keeps below the
bound of `steer.schedules` at every step. On the worst function the last iterate of a constant rate grows by 1/4 of the
rate for every factor e in the number of steps; with a cooldown over the last fifth it does not.

In likeness: a character transformer trained by Adam is no convex problem. What is claimed is that its loss follows the
bound of its schedule over the second half of training, that what a cooldown gains is gained as the bound says, and that
the best rates of cosine and of WSD differ in the direction, and within a factor 2 by the amount, that the bound says. D
/ G comes from the best rate of WSD, the only number that is fitted.

What does not hold for trainings this short: at WSD's best rate cosine should be ahead of a constant rate for most of
the time, by the bound, and is behind it, since the loss still falls the faster the higher the rate; at four times that
rate it was ahead as the bound says. The correlation is kept as a series, `gain_of_cosine_like_its_bound`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from separatrix.steer.schedules import (
    Schedule,
    best_base_rate,
    bound_curve,
    constant,
    cosine,
    extension_rate,
    linear,
    scale_of,
    wsd,
)
from separatrix.studies._convex import absolute, absolute_regression, adversary, descend
from separatrix.studies._scheduled import Sweep, characters, sweep
from separatrix.studies.study import Control, Outcome, Paper, Plan, Progress, Setting, Settings, Statement, Study

_EXAMPLES, _DIMENSION, _PROBLEMS = 50, 10, 8
_LENGTHS = 256, 4096
_POINTS = 20
_RATES = np.geomspace(4e-3, 6.4e-2, 5)
_WARMUP = 0.05


def _schedules(steps: int, warmup: int = 0) -> list[Schedule]:
    return [build(steps, warmup=warmup) for build in (constant, wsd, cosine, linear)]


def _closeness(steps: int, generator: np.random.Generator) -> tuple[float, float]:
    """The largest loss over its bound, and over the bound without its last sum, at all steps of several descents."""
    regression, distance = absolute_regression(_EXAMPLES, _DIMENSION, generator)
    start = generator.uniform(-1, 1, 3)
    near = generator.uniform(0.05, 1.0, 1)
    origin = np.zeros(_DIMENSION)
    problems = [
        (regression, origin, distance),
        (absolute, start, float(np.linalg.norm(start))),
        (absolute, near, near[0]),
    ]
    worst, without = 0.0, 0.0
    for oracle, begin, distance in problems:
        norm = float(np.linalg.norm(oracle(begin)[1]))
        for schedule in _schedules(steps):
            for factor in (0.1, 1.0, 10.0):
                base = factor * best_base_rate(schedule.values(), distance, norm).rate
                rates = base * schedule.values()
                found = descend(oracle, begin, rates)
                plain = (distance**2 + np.cumsum((rates * found.norms) ** 2)) / (2 * np.cumsum(rates))
                worst = max(worst, float((found.losses / bound_curve(rates, distance, found.norms)).max()))
                without = max(without, float((found.losses / plain).max()))
    for schedule in _schedules(steps):
        found = descend(adversary(schedule.values()), np.zeros(steps), schedule.values())
        # It starts at an optimum: any distance, however small, bounds it.
        worst = max(worst, found.losses[-1] / bound_curve(schedule.values(), 1e-9, found.norms, at=[steps - 1])[0])
    return worst, without


def _slope(build: Callable[[int], Schedule], lengths: tuple[int, int]) -> float:
    """Growth of the adversary's last loss, over the base rate, from a short to a long descent, by the log of steps."""
    losses = []
    for steps in lengths:
        factors = build(steps).values()
        losses.append(descend(adversary(factors), np.zeros(steps), factors).losses[-1])
    return float((losses[1] - losses[0]) / math.log(lengths[1] / lengths[0]))


def _extended(steps: int, generator: np.random.Generator) -> tuple[float, float]:
    """Last losses of a fourfold extension at the bound's factor on the rate and at its inverse, over that at 1.

    Means in the logarithm over several problems: of a single one the last losses scatter by a factor of two.
    """
    first, second = wsd(steps), wsd(4 * steps)
    kept = steps - round(steps / 5)
    ratios = []
    for _ in range(_PROBLEMS):
        oracle, distance = absolute_regression(_EXAMPLES, _DIMENSION, generator)
        norm = float(np.linalg.norm(oracle(np.zeros(_DIMENSION))[1]))
        base = best_base_rate(first.values(), distance, norm).rate
        done, more = base * first.values()[:kept], base * second.values()[kept:]
        factor = extension_rate(done, more, distance, norm).rate
        last = [
            descend(oracle, np.zeros(_DIMENSION), np.concatenate([done, share * more, [0.0]])).losses[-1]
            for share in (1.0, factor, 1 / factor)
        ]
        ratios.append(np.log([last[1] / last[0], last[2] / last[0]]))
    lowered, raised = np.exp(np.mean(ratios, axis=0))
    return float(lowered), float(raised)


@dataclasses.dataclass(frozen=True)
class _Likeness:
    """Correlations of a transformer's losses with bounds.

    `curves` of each schedule at its own best rate over the second half of training, `cooldown` of what WSD gains over a
    constant rate at WSD's best, `cosine` the same of cosine, `shuffled` of the curves with bounds in random order.
    """

    curves: list[float]
    cooldown: float
    cosine: float
    shuffled: list[float]


def _likeness(found: Sweep, factors: Mapping[str, Float[np.ndarray, " steps"]], seed: int) -> _Likeness:
    """How losses follow bounds whose only fitted number, D / G, makes WSD's best rate the best."""
    points, generator = found.points[1:].tolist(), np.random.default_rng(seed)
    scale = scale_of(factors["wsd"], found.best_rate("wsd"))

    def losses(name: str, at: int) -> Float[np.ndarray, " points"]:
        return np.asarray(found.losses[1:, found.names.index(name), at].mean(1))

    def bounds(name: str, at: int) -> Float[np.ndarray, " points"]:
        return bound_curve(np.append(found.rates[at] * factors[name], 0.0), scale, at=points)

    def gains(name: str) -> float:
        at = int(found.best[found.names.index("wsd")])
        return _correlation(losses(name, at) - losses("constant", at), bounds(name, at) - bounds("constant", at))

    late = slice(len(points) // 2, None)
    best = {name: int(at) for name, at in zip(found.names, found.best, strict=True)}
    pairs = [(losses(name, at)[late], bounds(name, at)[late]) for name, at in best.items()]
    return _Likeness(
        curves=[_correlation(loss, bound) for loss, bound in pairs],
        cooldown=gains("wsd"),
        cosine=gains("cosine"),
        shuffled=[_correlation(loss, generator.permutation(bound)) for loss, bound in pairs],
    )


def _correlation(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else math.nan


def _plan(settings: Settings, quick: bool) -> Plan:
    text = settings["steps"] / 1000 * (settings["width"] / 16) ** 1.5 * settings["length"] / 16 * settings["batch"] / 4
    return Plan(runs=3, seconds=2.0 + (3.0 if quick else 25.0) * text)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    generator = np.random.default_rng(seed)
    worst, without = _closeness(100 if quick else 400, generator)
    extended, raised = _extended(settings["horizon"], generator)
    progress()
    slopes = {build.__name__: _slope(build, _LENGTHS) for build in (constant, wsd)}
    progress()
    steps = settings["steps"] if quick else 4 * settings["steps"]
    text = characters(settings["width"], settings["length"], settings["batch"], seed)
    factors = {s.name: s.values() for s in _schedules(steps, round(_WARMUP * steps)) if s.name != "linear"}
    found = sweep(text, factors, _RATES, range(2 if quick else 4), every=steps // _POINTS)
    progress()
    like = _likeness(found, factors, seed)
    ratio = found.best_rate("cosine") / found.best_rate("wsd")
    predicted = best_base_rate(factors["cosine"]).rate / best_base_rate(factors["wsd"]).rate
    direction = math.copysign(1.0, math.log2(predicted))
    return Outcome(
        measured={
            "below_the_bound": worst,
            "log_term_of_constant": slopes["constant"],
            "no_log_term_with_cooldown": abs(slopes["wsd"]),
            "extension_pays": extended,
            "curves_like_bounds": like.curves,
            "gain_of_cooldown_like_its_bound": like.cooldown,
            "sign_of_the_rate_ratio": math.log2(ratio) * direction,
            "rate_ratio": ratio / predicted,
        },
        controls={
            "bound_of_the_average": without,
            "constant_as_cooled": abs(slopes["constant"]),
            "extension_at_a_higher_rate": raised,
            "points_shuffled": like.shuffled,
            "schedules_swapped": -math.log2(ratio) * direction,
        },
        series={
            "rate": found.rates.tolist(),
            "points": found.points.tolist(),
            "predicted_rate_ratio": [predicted],
            "gain_of_cosine_like_its_bound": [like.cosine],
            **{f"last_loss_{name}": found.losses[-1, i].mean(1).tolist() for i, name in enumerate(found.names)},
        },
    )


study = Study(
    id="605",
    slug="schedule-bound",
    paper=Paper(
        title=(
            "The Surprising Agreement Between Convex Optimization Theory and Learning-Rate Scheduling for Large Model"
            " Training"
        ),
        authors=("Fabian Schaipp", "Alexander Haegele", "Adrien Taylor", "Umut Simsekli", "Francis Bach"),
        year=2025,
        url="https://arxiv.org/abs/2501.18965",
    ),
    summary="A convex bound holds for subgradient descent, shows what cooldown is for, and ranks schedules of a net.",
    settings=(
        Setting("width", "int", 16, "width of the transformer", 8, 64),
        Setting("length", "int", 16, "characters in a window", 16, 64),
        Setting("batch", "int", 4, "windows in a batch", 2, 16),
        Setting("steps", "int", 1000, "steps of the transformer's training; four times as many in full", 500, 4000),
        Setting("horizon", "int", 200, "steps of the descent that is extended fourfold", 100, 400),
    ),
    statements=(
        Statement(
            "below_the_bound",
            "at_most",
            1.0,
            "Largest loss over its bound, on three convex problems and the worst functions of four schedules.",
        ),
        Statement(
            "log_term_of_constant",
            "equal",
            0.25,
            "Growth of a constant rate's last loss on its worst function, over the rate and the log of steps.",
            tolerance=0.01,
        ),
        Statement(
            "no_log_term_with_cooldown",
            "at_most",
            0.025,
            "The same with a cooldown over the last fifth: not a tenth of it; what is left falls like one over steps.",
        ),
        Statement(
            "extension_pays",
            "at_most",
            1.0,
            "Last loss of a fourfold extension at the rate of the least bound, over that at the rate kept; geometric"
            " mean of eight problems.",
        ),
        Statement(
            "curves_like_bounds",
            "at_least",
            0.8,
            "Correlation of a transformer's loss with its bound over the second half of training, for a constant rate,"
            " WSD and cosine at their best rates: two thirds of the variance.",
        ),
        Statement(
            "gain_of_cooldown_like_its_bound",
            "at_least",
            0.8,
            "Correlation along training of what WSD gains over a constant rate with what its bound gains.",
        ),
        Statement(
            "sign_of_the_rate_ratio",
            "at_least",
            0.0,
            "Log2 of the best rate of cosine over that of WSD, in the direction that the bound predicts.",
        ),
        Statement(
            "rate_ratio",
            "interval",
            (0.5, 2.0),
            "That ratio of the transformer over that of the bound: within a step of the grid of rates.",
        ),
    ),
    controls=(
        Control("bound_of_the_average", "below_the_bound", "The bound of the average iterate, without the last sum."),
        Control("constant_as_cooled", "no_log_term_with_cooldown", "The constant rate."),
        Control("extension_at_a_higher_rate", "extension_pays", "The rate raised by as much as it should be lowered."),
        Control("points_shuffled", "curves_like_bounds", "The bounds in a random order of the points."),
        Control("schedules_swapped", "sign_of_the_rate_ratio", "Cosine taken for WSD and WSD for cosine."),
    ),
    plan=_plan,
    run=_run,
    smoke={"steps": 500, "horizon": 100},
)
