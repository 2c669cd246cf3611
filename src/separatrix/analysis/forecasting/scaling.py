"""Scaling laws: how the final loss of trainings depends on parameters and data, and how to spend compute best."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from separatrix.analysis.forecasting.curve import common_series, curve_of
from separatrix.analysis.forecasting.fitting import Numbers, robust_fit
from separatrix.runs import Run
from separatrix.runs.errors import UsageError

Accounting = Literal["all", "inner"]
"""Which parameters count: all, or those that are no embeddings ("inner")."""

_FEWEST = 5

_EXPONENTS = (0.02, 3.0)


@dataclasses.dataclass(frozen=True)
class Training:
    """One finished training: its model's `parameters`, the `data` it saw (in tokens or examples), and its `loss`.

    `flops` spends 6 a parameter and token unless given.

    Raises:
        UsageError: a number is not positive and finite.
    """

    parameters: float
    data: float
    loss: float
    flops: float = 0.0
    name: str = ""

    def __post_init__(self) -> None:
        if not all(0 < value < math.inf for value in (self.parameters, self.data, self.loss)):
            raise UsageError(
                f"training {self.name!r} has {self.parameters:g} parameters, {self.data:g} data and loss"
                f" {self.loss:g}: give positive numbers"
            )
        if not self.flops:
            object.__setattr__(self, "flops", 6.0 * self.parameters * self.data)


@dataclasses.dataclass(frozen=True)
class ScalingLaw:
    """loss = floor + size_scale N^-size_exponent + data_scale D^-data_exponent, N parameters and D data.

    `residuals` are logarithms of measured minus those of fitted losses.

    Source: Hoffmann et al. 2022, arXiv:2203.15556, equation 2.
    """

    floor: float
    size_scale: float
    size_exponent: float
    data_scale: float
    data_exponent: float
    residuals: Float64[np.ndarray, " trainings"] = dataclasses.field(repr=False)

    def loss(self, parameters: float, data: float) -> float:
        """The loss of a training of that size."""
        by_size = self.size_scale * parameters**-self.size_exponent
        return float(self.floor + by_size + self.data_scale * data**-self.data_exponent)

    @property
    def share(self) -> float:
        """The exponent a of compute with which the best size grows: N ~ C^a, D ~ C^(1 - a)."""
        return self.data_exponent / (self.size_exponent + self.data_exponent)

    def best(self, flops: float, per_token: float = 6.0) -> tuple[float, float]:
        """Parameters and data of least loss where `per_token` N D = flops.

        Source: Hoffmann et al. 2022, arXiv:2203.15556, equation 4.
        """
        a, b = self.size_exponent, self.data_exponent
        ratio = (a * self.size_scale / (b * self.data_scale)) ** (1 / (a + b))
        parameters = ratio * (flops / per_token) ** (b / (a + b))
        return parameters, flops / per_token / parameters

    @property
    def constants(self) -> dict[str, float]:
        """The five constants by name."""
        return {name: float(getattr(self, name)) for name in _CONSTANTS}


_CONSTANTS = ("floor", "size_scale", "size_exponent", "data_scale", "data_exponent")


def fit_scaling(trainings: Sequence[Training], near: ScalingLaw | None = None) -> ScalingLaw:
    """Fit the law to at least five trainings that differ in size and in data.

    Huber's loss of log-sum-exp of the three terms minus the logarithm of the loss, from a grid of starts; scales are
    fitted in logarithms, at units in the middle of the trainings, so that they are not tied to the exponents.

    Raises:
        UsageError: trainings are too few, or all have one size, or one amount of data.

    Source: Hoffmann et al. 2022, arXiv:2203.15556, section 3.3 and appendix D.2.
    """
    sizes, data, losses = (
        np.log([getattr(training, name) for training in trainings]) for name in ("parameters", "data", "loss")
    )
    if len(trainings) < _FEWEST or len(set(sizes)) < 2 or len(set(data)) < 2:
        raise UsageError(
            f"{len(trainings)} trainings of {len(set(sizes))} sizes and {len(set(data))} amounts of data fit no scaling"
            f" law: give at least {_FEWEST}, of two or more of each"
        )
    centre = float(sizes.mean()), float(data.mean())
    n, d = sizes - centre[0], data - centre[1]

    def terms(p: Numbers) -> Numbers:
        return np.stack([np.full_like(n, p[0]), p[1] - p[2] * n, p[3] - p[4] * d])

    def residuals(p: Numbers) -> Numbers:
        return np.asarray(np.logaddexp.reduce(terms(p), axis=0) - losses, dtype=np.float64)

    def jacobian(p: Numbers) -> Numbers:
        parts = terms(p)
        weights = np.exp(parts - np.logaddexp.reduce(parts, axis=0))
        return np.stack([weights[0], weights[1], -weights[1] * n, weights[2], -weights[2] * d], 1)

    top = float(losses.max())
    low = np.array([top - 20, top - 20, _EXPONENTS[0], top - 20, _EXPONENTS[0]])
    high = np.array([top, top + 1, _EXPONENTS[1], top + 1, _EXPONENTS[1]])
    if near is not None:
        scale = (
            (math.log(near.size_scale) - near.size_exponent * centre[0]),
            (math.log(near.data_scale) - near.data_exponent * centre[1]),
        )
        starts = [np.array([math.log(near.floor), scale[0], near.size_exponent, scale[1], near.data_exponent])]
    else:
        shares, exponents = np.log([0.05, 0.3, 0.9]), (0.2, 0.5, 1.0)
        starts = [
            np.array([top + f, top + s, a, top + e, b])
            for f, s, e, a, b in itertools.product(shares, shares, shares, exponents, exponents)
        ]
    found = robust_fit(residuals, jacobian, starts, (low, high))
    p = found.parameters
    return ScalingLaw(
        floor=math.exp(p[0]),
        size_scale=math.exp(p[1] + p[2] * centre[0]),
        size_exponent=float(p[2]),
        data_scale=math.exp(p[3] + p[4] * centre[1]),
        data_exponent=float(p[4]),
        residuals=-found.residuals,
    )


def scaling_intervals(
    law: ScalingLaw, trainings: Sequence[Training], *, level: float = 0.9, draws: int = 200, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Intervals of the constants and of `share`, from fits to trainings drawn again with replacement.

    Draws that leave one size or one amount of data are drawn anew.

    Raises:
        UsageError: the level is no probability.
    """
    if not 0.0 < level < 1.0:
        raise UsageError(f"level {level} is no probability: give a number between 0 and 1")
    random = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in (*_CONSTANTS, "share")}
    while len(found["share"]) < draws:
        drawn = [trainings[index] for index in random.integers(len(trainings), size=len(trainings))]
        if len({t.parameters for t in drawn}) < 2 or len({t.data for t in drawn}) < 2:
            continue
        again = fit_scaling(drawn, near=law)
        for name in found:
            found[name].append(float(getattr(again, name)))
    ends = [(1 - level) / 2, (1 + level) / 2]
    return {
        name: (float(low), float(high)) for name, (low, high) in ((n, np.quantile(v, ends)) for n, v in found.items())
    }


@dataclasses.dataclass(frozen=True)
class IsoFlop:
    """The best size at one budget of `flops`: the minimum of a parabola of the loss over the logarithm of the size.

    `inside` says whether it lies between the trainings; `parameters`, `data` and `loss` are those at the minimum.
    """

    flops: float
    parameters: float
    data: float
    loss: float
    inside: bool


def isoflop(trainings: Sequence[Training], *, tolerance: float = 0.1) -> tuple[tuple[IsoFlop, ...], float]:
    """Best sizes by budget, and the exponent a of N ~ C^a through them (NaN for one budget).

    Trainings whose flops agree within `tolerance` (as a share) make a budget; one with fewer than three sizes, or with
    a parabola that opens downwards, is left out.

    Source: Hoffmann et al. 2022, arXiv:2203.15556, section 3.2.
    """
    groups: list[list[Training]] = []
    for training in sorted(trainings, key=lambda t: t.flops):
        if groups and training.flops <= groups[-1][0].flops * (1 + tolerance):
            groups[-1].append(training)
        else:
            groups.append([training])
    found = []
    for group in groups:
        sizes = np.log([t.parameters for t in group])
        if len(set(sizes)) < 3:
            continue
        bend, slope, level = np.polyfit(sizes, [t.loss for t in group], 2)
        if bend <= 0:
            continue
        best = -slope / (2 * bend)
        flops = math.exp(float(np.mean(np.log([t.flops for t in group]))))
        per_token = float(np.mean([t.flops / t.parameters / t.data for t in group]))
        parameters = math.exp(best)
        found.append(
            IsoFlop(
                flops,
                parameters,
                flops / per_token / parameters,
                float(level - slope**2 / (4 * bend)),
                bool(sizes.min() < best < sizes.max()),
            )
        )
    if len(found) < 2:
        return tuple(found), math.nan
    exponent = np.polyfit(np.log([f.flops for f in found]), np.log([f.parameters for f in found]), 1)[0]
    return tuple(found), float(exponent)


def training_of(
    run: Run, *, accounting: Accounting = "all", per_example: float = 1.0, series: str | None = None
) -> Training:
    """A run as a training: parameters that an optimizer held, data as examples times `per_example`, last loss.

    The loss is the median of the last twentieth of `series`: `eval_loss`, or `loss` where that has too few values.
    `per_example` are tokens an example.

    Raises:
        UsageError: the run lacks a loss, parameters or batch sizes, its loss is not finite at the end, or the
            accounting is unknown.
    """
    if accounting not in ("all", "inner"):
        raise UsageError(f"there is no accounting {accounting!r} of parameters: choose all or inner")
    curve = curve_of(run, series=series)
    if curve.note:
        raise UsageError(f"run {run.name} has no last loss, since it is not finite at the end: leave the run out")
    kinds = {str(m.get("name")): str(m.get("kind", "")).lower() for m in run.modules}
    counted = sum(
        int(p["numel"])
        for p in run.parameters
        if p.get("optimizer") and (accounting == "all" or "embedding" not in kinds.get(str(p.get("module", "")), ""))
    )
    if not counted or "batch_size" not in run:
        raise UsageError(f"run {run.name} holds no parameters or batch sizes: record it with separatrix watch")
    batches = run.series("batch_size")
    examples = float(np.nanmean(batches.values)) * len(curve.rates)
    loss = float(np.median(curve.losses[-max(1, len(curve.losses) // 20) :]))
    return Training(counted, examples * per_example, loss, name=run.name)


def trainings_of(runs: Iterable[Run], *, accounting: Accounting = "all", per_example: float = 1.0) -> list[Training]:
    """Every run as a training, all by one series; see `training_of` and `common_series`."""
    held = list(runs)
    series = common_series(held)
    return [training_of(run, accounting=accounting, per_example=per_example, series=series) for run in held]


def scaling_as_json(law: ScalingLaw, intervals: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """Plain data for JSON: constants with their intervals."""
    values = {**law.constants, "share": law.share}
    return {name: {"value": value, "interval": list(intervals[name])} for name, value in values.items()}
