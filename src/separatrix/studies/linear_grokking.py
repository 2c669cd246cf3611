"""Grokking without understanding: a linear student whose test accuracy jumps late while its test loss just decays.

Gradient descent on the mean squared error of linear students, each with a teacher, training and test inputs of its own;
see `separatrix.theory.linear_grokking` for the setting and the formulas. Gaps are steps between the training and the
test accuracy, means over copies, passing 95 %; times are read off between recorded steps in their logarithm, in the
same way for trainings and for the theory, which knows the spectra of the training inputs there. Curves are compared
with the theory that knows sizes only.

Where few examples more than inputs remain, the least eigenvalue, and with it the gap, differs by factors from one
training set to the next: the Marchenko-Pastur law gives the gap of large systems only.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch

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
from separatrix.tasks import ensemble
from separatrix.theory.linear_grokking import (
    Descent,
    Spectrum,
    curves,
    edges,
    grokking_times,
    marchenko_pastur,
)
from separatrix.theory.linear_students import compressed, learnt, students
from separatrix.theory.theory import Curves, Floats

_RATIOS = (0.3, 0.5, 0.7, 0.8)
_JUMP = 0.7
_SHARES = (1.0, 0.3, 0.1)  # of the threshold, at which the jump is looked at
_LEVEL = 0.95
_TESTS = 128
_ENTRIES = 120_000  # copies times inputs squared: larger systems vary less
_NAMES = ("loss", "eval_loss", "accuracy", "eval_accuracy")


@dataclasses.dataclass(frozen=True)
class _Students:
    """Students and teachers (copies, inputs, outputs), training and fresh inputs (copies, examples, inputs)."""

    student: torch.Tensor
    teacher: torch.Tensor
    inputs: torch.Tensor
    fresh: torch.Tensor

    @property
    def spectrum(self) -> Spectrum:
        values = torch.linalg.eigvalsh(self.inputs.mT @ self.inputs / self.inputs.shape[1]).clamp(min=0.0).numpy()
        return Spectrum(values, np.ones_like(values), self.inputs.shape[1])


def _drawn(copies: int, inputs: int, ratio: float, outputs: int, init: float, generator: torch.Generator) -> _Students:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(copies, *shape, dtype=torch.float64, generator=generator)

    student, teacher = (normal(inputs, outputs) / math.sqrt(inputs) for _ in range(2))
    return _Students(math.sqrt(init) * student, teacher, normal(round(inputs / ratio), inputs), normal(_TESTS, inputs))


def _descent(settings: Settings, ratio: float, outputs: int, decay: float = 0.0) -> Descent:
    """At the learning rate of the settings for that ratio; decay is over the mean curvature."""
    slowness = 2.0 * decay / outputs
    rate = settings["rate"] / (2.0 * edges(ratio)[1] / outputs + slowness)
    return Descent(rate, slowness, outputs, settings["init"])


@dataclasses.dataclass(frozen=True)
class _Training:
    """Squared errors, means over outputs, of training and of fresh examples, (steps, copies, examples)."""

    steps: list[int]
    training: torch.Tensor
    fresh: torch.Tensor

    def curves(self, threshold: float) -> Curves:
        """The four series at this threshold, each (steps,)."""
        parts = (self.training, self.fresh)
        means = [part.mean((1, 2)).numpy() for part in parts]
        rights = [(part <= threshold).double().mean((1, 2)).numpy() for part in parts]
        return dict(zip(_NAMES, (*means, *rights), strict=True))


def _train(drawn: _Students, descent: Descent, steps: Sequence[int]) -> _Training:
    few = compressed(drawn.inputs, drawn.inputs @ drawn.teacher)
    training = ensemble.train(
        students(drawn.student),
        torch.nn.functional.mse_loss,
        ensemble.SGD(descent.rate, descent.decay),
        lambda step: few,
        max(steps),
        measure={"weights": learnt},
        every=steps,
    )
    away = training.measured["weights"].values - drawn.teacher
    return _Training(
        list(steps),
        *(torch.stack([(part @ now).square().mean(2) for now in away]) for part in (drawn.inputs, drawn.fresh)),
    )


def _logarithmic(last: int, count: int) -> list[int]:
    return sorted({0, *(round(last ** (k / count)) for k in range(count + 1))})


def _passing(steps: Sequence[int], values: Floats, level: float) -> float:
    """When values, which start below, first pass the level: linear in log(1 + step); infinite if never."""
    above = np.flatnonzero(values >= level)
    if not above.size or above[0] == 0:
        return math.inf if not above.size else 0.0
    k = int(above[0])
    low, high = math.log1p(steps[k - 1]), math.log1p(steps[k])
    share = (level - values[k - 1]) / (values[k] - values[k - 1])
    return math.expm1(low + float(share) * (high - low))


def _gap(steps: Sequence[int], seen: Curves) -> float:
    return _passing(steps, seen["eval_accuracy"], _LEVEL) - _passing(steps, seen["accuracy"], _LEVEL)


def _horizon(spectrum: Spectrum, descent: Descent, threshold: float) -> int:
    """Steps that suffice for the test accuracy to pass the level at the threshold, and a half at a tenth of it."""
    times = [
        grokking_times(spectrum, descent, share * threshold, level=level)[1]
        for share, level in ((1.0, _LEVEL), (_SHARES[-1], 0.5))
    ]
    return math.ceil(1.3 * max(times)) + 4


@dataclasses.dataclass(frozen=True)
class _Grokked:
    """A training without decay until its test accuracy is high, and what is expected of it."""

    steps: list[int]
    training: _Training
    spectrum: Spectrum
    descent: Descent
    threshold: float

    def expected(self, share: float = 1.0) -> Curves:
        return curves(self.spectrum, self.descent, share * self.threshold, self.steps)

    def measured(self, share: float = 1.0) -> Curves:
        return self.training.curves(share * self.threshold)

    @property
    def gaps(self) -> tuple[float, float]:
        """Measured and expected."""
        return _gap(self.steps, self.measured()), _gap(self.steps, self.expected())


def _grok(
    settings: Settings, ratio: float, outputs: int, rate: float | None, copies: int, generator: torch.Generator
) -> _Grokked:
    """At `rate`, or at the learning rate of the settings for the ratio."""
    drawn = _drawn(copies, settings["inputs"], ratio, outputs, settings["init"], generator)
    descent = _descent(settings, ratio, outputs)
    if rate is not None:
        descent = dataclasses.replace(descent, rate=rate)
    spectrum, threshold = drawn.spectrum, settings["threshold"]
    steps = _logarithmic(_horizon(spectrum, descent, threshold), 50)
    return _Grokked(steps, _train(drawn, descent, steps), spectrum, descent, threshold)


def _at(steps: Sequence[int], values: Floats, time: float) -> float:
    """Positive values at a time between steps."""
    return float(np.exp(np.interp(math.log1p(time), np.log1p(steps), np.log(values))))


def _half(steps: Sequence[int], seen: Curves, name: str = "eval_accuracy") -> float:
    """When half of the examples are right."""
    return _passing(steps, seen[name], 0.5)


def _speeds(grokked: _Grokked) -> tuple[float, float]:
    """Decay of log test loss a step while the test accuracy goes from 10 to 50 and from 50 to 90 %, over the theory's.

    The second number is that of the second half over that of the first steps, until the loss has fallen by e^(1/2).
    """
    seen, steps = grokked.measured(), grokked.steps
    low, middle, high = (_passing(steps, seen["eval_accuracy"], level) for level in (0.1, 0.5, 0.9))
    losses = [math.log(_at(steps, seen["eval_loss"], time)) for time in (low, middle, high)]
    first, second = (losses[0] - losses[1]) / (middle - low), (losses[1] - losses[2]) / (high - middle)
    start = _passing(steps, -np.log(seen["eval_loss"] / seen["eval_loss"][0]), 0.5)
    return second / first, 0.5 / start / second


def _log_distances(seen: Curves, expected: Curves) -> list[float]:
    """Mean over steps of the size of log measured over expected, training and test loss."""
    return [float(np.abs(np.log(seen[name] / expected[name])).mean()) for name in _NAMES[:2]]


def _distances(seen: Curves, expected: Curves) -> list[float]:
    """Mean over steps of the distance of training and test accuracy."""
    return [float(np.abs(seen[name] - expected[name]).mean()) for name in _NAMES[2:]]


def _plan(settings: Settings, quick: bool) -> Plan:
    work = settings["inputs"] * settings["outputs"] / 48
    return Plan(runs=5, seconds=(2.0 + work) * (1 if quick else 4))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    copies = max(_ENTRIES // settings["inputs"] ** 2, 32) * (1 if quick else 4)
    inputs, outputs, threshold = settings["inputs"], settings["outputs"], settings["threshold"]
    ratio, init = inputs / round(inputs / settings["ratio"]), settings["init"]

    decayed = _descent(settings, ratio, outputs, settings["decay"])
    slowest = 1.0 - float(decayed.contraction(np.array(edges(ratio)[0])))
    steps = _logarithmic(math.ceil(7.0 / slowest), 60)
    drawn = _drawn(3 * copies, inputs, ratio, outputs, init, generator)
    seen = _train(drawn, decayed, steps).curves(threshold)
    spectrum, population = marchenko_pastur(inputs, round(inputs / ratio)), np.ones((1, inputs))
    expected = curves(spectrum, decayed, threshold, steps)
    endless = curves(Spectrum(population, population, round(inputs / ratio)), decayed, threshold, steps)
    without = curves(spectrum, dataclasses.replace(decayed, decay=0.0), threshold, steps)
    progress()

    grown = [_grok(settings, each, outputs, None, 2 * copies, generator) for each in _RATIOS]
    gaps, expected_gaps = zip(*(each.gaps for each in grown), strict=True)
    progress()

    jump = grown[_RATIOS.index(_JUMP)]
    seen_there = [jump.measured(share) for share in _SHARES]
    moments_expected = [_half(jump.steps, jump.expected(share)) for share in _SHARES]
    moments, in_training = (
        [_half(jump.steps, each, name) for each in seen_there] for name in ("eval_accuracy", "accuracy")
    )
    speed_up, slow_down = _speeds(jump)
    progress()

    rate = _descent(settings, 0.5, 1).rate
    one, four = (_grok(settings, 0.5, k, rate, copies, generator).gaps for k in (1, 4))
    progress()

    few = _drawn(4 * copies, inputs, 2.0, outputs, init, generator)
    free = _descent(settings, 2.0, outputs)
    end = math.ceil(4.0 / (1.0 - float(free.contraction(np.array(edges(2.0)[0])))))
    first, last = _train(few, free, [0, end]).curves(threshold)["eval_loss"]
    progress()
    return Outcome(
        measured={
            "losses_are_predicted": _log_distances(seen, expected),
            "accuracies_are_predicted": _distances(seen, expected),
            "decay_leaves_a_floor": float(seen["eval_loss"][-1] / expected["eval_loss"][-1]),
            "gap_is_predicted": [a / b for a, b in zip(gaps, expected_gaps, strict=True)],
            "gap_grows": gaps,
            "gap_diverges": gaps[-1] / gaps[0],
            "jump_is_predicted": [a / b for a, b in zip(moments, moments_expected, strict=True)],
            "jump_moves": [b / a for a, b in itertools.pairwise(moments)],
            "loss_does_not_speed_up": speed_up,
            "outputs_delay": four[0] / one[0],
            "unseen_directions_remain": float(last / first * 2.0),
        },
        controls={
            "endless_data": _log_distances(seen, endless),
            "accuracies_of_endless_data": _distances(seen, endless),
            "floor_without_decay": float(seen["eval_loss"][-1] / without["eval_loss"][-1]),
            "gap_of_training": [
                _passing(each.steps, each.measured()["accuracy"], _LEVEL) / gap
                for each, gap in zip(grown, expected_gaps, strict=True)
            ],
            "jump_of_training": [a / b for a, b in zip(in_training, moments_expected, strict=True)],
            "first_steps": slow_down,
            "one_output": one[0] / one[1],
            "seen_directions": float(jump.measured()["eval_loss"][-1] / jump.measured()["eval_loss"][0] * 2.0),
        },
        series={
            "ratio": list(_RATIOS),
            "gap": list(gaps),
            "gap_predicted": list(expected_gaps),
            "step": [float(step) for step in steps],
            **{name: seen[name].tolist() for name in _NAMES},
        },
    )


study = Study(
    id="420",
    slug="linear-grokking",
    paper=Paper(
        title="Grokking in Linear Estimators -- A Solvable Model that Groks without Understanding",
        authors=("Noam Levi", "Alon Beck", "Yohai Bar-Sinai"),
        year=2023,
        url="https://arxiv.org/abs/2310.16441",
    ),
    summary="A linear student groks, later the nearer inputs come to examples; the jump is one of the measure alone.",
    settings=(
        Setting("inputs", "int", 48, "inputs", 20, 80),
        Setting("outputs", "int", 1, "outputs", 1, 4),
        Setting("ratio", "float", 0.5, "inputs over training examples, where curves are compared", 0.2, 0.8),
        Setting("rate", "float", 1.2, "learning rate over 1 / largest curvature", 0.4, 1.6),
        Setting("decay", "float", 0.01, "weight decay over the mean curvature, where curves are compared", 0.005, 0.02),
        Setting("init", "float", 1.0, "variance of the student's weights at the start over the teacher's", 0.25, 4.0),
        Setting("threshold", "float", 0.01, "squared error up to which an example is right", 0.003, 0.03),
    ),
    statements=(
        Statement(
            "losses_are_predicted",
            "at_most",
            0.3,
            "Training and test loss from the sizes alone: mean distance of logarithms over logarithmic steps.",
        ),
        Statement(
            "accuracies_are_predicted",
            "at_most",
            0.03,
            "Training and test accuracy from the sizes alone: mean distance over steps.",
        ),
        Statement(
            "decay_leaves_a_floor", "interval", (0.8, 1.25), "Last test loss under decay over the predicted one."
        ),
        Statement(
            "gap_is_predicted",
            "interval",
            (0.75, 1.33),
            "Steps between training and test accuracy over those predicted, at ratios 0.3, 0.5, 0.7 and 0.8.",
        ),
        Statement("gap_grows", "monotone", "increasing", "Those steps, the nearer the ratio comes to 1."),
        Statement("gap_diverges", "at_least", 10.0, "The gap at ratio 0.8 over that at 0.3."),
        Statement(
            "jump_is_predicted",
            "interval",
            (0.8, 1.25),
            "When test accuracy passes a half, over the prediction, at 1, 0.3 and 0.1 of the threshold.",
        ),
        Statement(
            "jump_moves",
            "at_least",
            1.1,
            "When test accuracy passes a half, the next over the last of these thresholds.",
        ),
        Statement(
            "loss_does_not_speed_up",
            "at_most",
            1.1,
            "Decay rate of the test loss in the second half of the jump over that in the first.",
        ),
        Statement(
            "outputs_delay",
            "interval",
            (2.5, 6.5),
            "The gap with four outputs over that with one, learning rates equal.",
        ),
        Statement(
            "unseen_directions_remain",
            "interval",
            (0.9, 1.1),
            "With two inputs an example, last test loss over half the first: no grokking.",
        ),
    ),
    controls=(
        Control("endless_data", "losses_are_predicted", "The theory with the covariance of the population."),
        Control("accuracies_of_endless_data", "accuracies_are_predicted", "The same."),
        Control("floor_without_decay", "decay_leaves_a_floor", "The theory without decay."),
        Control("gap_of_training", "gap_is_predicted", "The steps of the training accuracy instead of the gap."),
        Control("jump_of_training", "jump_is_predicted", "The training accuracy instead."),
        Control("first_steps", "loss_does_not_speed_up", "The decay rate in the first steps over that in the jump."),
        Control("one_output", "outputs_delay", "One output beside one."),
        Control("seen_directions", "unseen_directions_remain", "Fewer inputs than examples."),
    ),
    plan=_plan,
    run=_run,
    smoke={"inputs": 40, "rate": 1.6},
)
