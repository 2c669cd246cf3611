"""Test loss over time in high dimension: worst overtraining where weights and examples are equally many.

A linear student on a linear teacher with normal inputs and noise, beside the theory `generalisation-dynamics`; then a
student with one hidden layer of fixed random ReLU units, centred, of which the readout is trained, on the same kind of
targets. Full-batch gradient descent throughout; losses are half mean squared errors, means over realisations.

Overtraining is the test loss at the end of training less its least value on the way. The sweep over hidden widths is
for trained readouts, where the number of effective parameters is the width; nets with both layers trained are not
looked at. That stopping early is nearly as good as the best ridge penalty is claimed for small first weights only, as
the control with large ones shows.
"""

from __future__ import annotations

import dataclasses
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
from separatrix.tasks import LinearTeacher, ensemble
from separatrix.theory.generalisation_dynamics import (
    LinearStudent,
    curves,
    frozen_share,
    optimal_stopping,
)
from separatrix.theory.linear_students import compressed, half_squares, learnt, students

_RATIOS = (0.25, 0.5, 0.5**0.5, 1.0, 2.0**0.5, 2.0, 4.0)
_SOME = (1, 3, 5)  # a half, one and two examples a weight
_FEW, _MANY = 1, 5
_RATE = 0.5  # over 1 / the largest eigenvalue
_LAST = 1000
_LAST_WIDE = 2000  # features have a wider spectrum
_KEPT = 160
_FROZEN_STEPS = 400
_TESTS = 400
_DECAY = 0.01
_STANDARD_ERRORS = 4.0


def _grid(last: int) -> list[int]:
    return sorted({0, *(round(last ** (power / _KEPT)) for power in range(_KEPT + 1))})


def _descend(
    inputs: torch.Tensor, targets: torch.Tensor, start: torch.Tensor, rate: float | torch.Tensor, steps: Sequence[int]
) -> torch.Tensor:
    """Weights (kept steps, copies, d, students) on the way from `start` (copies, d, students).

    `inputs` (copies, n, d), `targets` (copies, n), `rate` one number or (copies,). Students of a copy see the same
    examples.
    """
    few = compressed(inputs, targets[..., None].expand(-1, -1, start.shape[2]))
    training = ensemble.train(
        students(start),
        half_squares,
        ensemble.SGD(rate),
        lambda step: few,
        steps[-1],
        measure={"weights": learnt},
        every=steps,
    )
    return training.measured["weights"].values


@dataclasses.dataclass(frozen=True)
class _Course:
    """Test losses of students on copies of examples, (kept steps, copies), and the theory's words for them."""

    student: LinearStudent
    losses: torch.Tensor

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self.losses.mean(1).numpy(), dtype=np.float64)

    def deviation(self, factor: float = 1.0) -> float:
        """Largest relative error of the theory with `factor` times the examples, beyond four standard errors."""
        told = dataclasses.replace(self.student, examples=round(factor * self.student.examples))
        expected = curves(told, _grid(_LAST))["eval_loss"]
        error = (self.losses.std(1) / math.sqrt(self.losses.shape[1])).numpy()
        return float(((np.abs(self.mean - expected) - _STANDARD_ERRORS * error) / expected).max())

    def at(self, step: float) -> float:
        """Mean loss at the kept step next to `step`, over the least."""
        nearest = int(np.abs(np.asarray(_grid(_LAST)) - step).argmin())
        return float(self.mean[nearest] / self.mean.min())


@dataclasses.dataclass(frozen=True)
class _Courses:
    """At one ratio of examples to weights: students from first weights of the norm that is set, of 0 and of 1.

    `ridge` is the mean test loss of ridge regression on the same examples, its penalty the noise over the signal.
    """

    set: _Course
    zero: _Course
    unit: _Course
    ridge: float

    @property
    def persisting(self) -> float:
        """Test loss at the end due to first weights of norm 1."""
        return float(self.unit.mean[-1] - self.zero.mean[-1])


def _trained(settings: Settings, ratio: float, copies: int, draw: torch.Generator, seed: int) -> _Courses:
    """Every student has a twin with opposite first weights; means of both are free of chance overlaps with those."""
    dimension, start = settings["dimension"], settings["start"]
    examples = round(ratio * dimension)
    edge = (1.0 + math.sqrt(dimension / examples)) ** 2
    student = LinearStudent(dimension, examples, settings["signal_to_noise"], start, _RATE / edge)
    teacher = LinearTeacher(dimension=dimension, noise=math.sqrt(student.noise), seed=seed, dtype=torch.float64)
    inputs, targets = teacher.sample(copies * examples, draw).stacked(copies)
    direction = torch.randn(copies, dimension, 1, dtype=torch.float64, generator=draw)
    first = torch.tensor([start, -start, 0.0, 1.0, -1.0], dtype=torch.float64)
    begin = torch.nn.functional.normalize(direction, dim=1) * first
    way = _descend(inputs, targets, begin, student.rate, _grid(_LAST))
    penalty = student.noise * dimension * torch.eye(dimension, dtype=torch.float64)
    ridge = torch.linalg.solve(inputs.mT @ inputs + penalty, inputs.mT @ targets[..., None])

    def loss(weights: torch.Tensor) -> torch.Tensor:
        return ((weights - teacher.weights[:, None]).square().sum(-2) + student.noise) / 2.0

    losses = loss(way)
    return _Courses(
        _Course(student, losses[..., :2].mean(2)),
        _Course(dataclasses.replace(student, start=0.0), losses[..., 2]),
        _Course(dataclasses.replace(student, start=1.0), losses[..., 3:].mean(2)),
        float(loss(ridge).mean()),
    )


def _unfrozen(dimension: int, decay: float, draw: torch.Generator) -> float:
    """Largest difference of the share of weight directions that training keeps and the theory's, of three ratios.

    Students start from every unit vector; the map from first to last weights is linear up to a shift, which no targets
    leave out.
    """
    worst = 0.0
    for ratio in (0.25, 0.5, 2.0):
        examples = round(ratio * dimension)
        inputs = torch.randn(1, examples, dimension, dtype=torch.float64, generator=draw)
        moment = inputs[0].T @ inputs[0] / examples
        rate = _RATE / float(torch.linalg.matrix_norm(moment, 2))
        weights = torch.eye(dimension, dtype=torch.float64)
        for _ in range(_FROZEN_STEPS):
            weights = weights - rate * (moment @ weights + decay * weights)
        kept = int((torch.linalg.svdvals(weights) > 1.0 - 1e-6).sum()) / dimension
        worst = max(worst, abs(kept - frozen_share(examples / dimension)))
    return worst


def _widths(settings: Settings, ratio: float, copies: int, draw: torch.Generator, seed: int) -> np.ndarray:
    """Mean test losses (kept steps,) of trained readouts, hidden width over examples being `ratio`."""
    examples, dimension = settings["examples"], settings["examples"] // 2
    noise = math.sqrt(1.0 / settings["signal_to_noise"])
    teacher = LinearTeacher(dimension=dimension, noise=noise, seed=seed, dtype=torch.float64)
    width = round(ratio * examples)
    train = teacher.sample(copies * examples, draw).stacked(copies)
    fresh = torch.randn(copies, _TESTS, dimension, dtype=torch.float64, generator=draw)
    hidden = torch.randn(copies, dimension, width, dtype=torch.float64, generator=draw)

    def features(inputs: torch.Tensor) -> torch.Tensor:
        fields = inputs @ hidden / math.sqrt(dimension)
        return (fields.relu() - 1.0 / math.sqrt(2.0 * math.pi)) / math.sqrt(width)

    seen = features(train.inputs)
    rate = examples / torch.linalg.matrix_norm(seen, 2).square()
    zero = torch.zeros(copies, width, 1, dtype=torch.float64)
    way = _descend(seen, train.targets, zero, rate, _grid(_LAST_WIDE))[..., 0]
    outputs = torch.einsum("cnd,tcd->tcn", features(fresh), way)
    errors = (outputs - fresh @ teacher.weights).square().mean((1, 2)) + noise**2
    return np.asarray((errors / 2.0).numpy(), dtype=np.float64)


def _overtraining(losses: np.ndarray) -> float:
    return float(losses[-1] - losses.min())


def _peak(values: Sequence[float]) -> float:
    """The ratio at which a value is largest."""
    return _RATIOS[int(np.argmax(values))]


def _copies(settings: Settings, quick: bool) -> int:
    return math.ceil((2400 if quick else 9600) / int(settings["dimension"]))


def _plan(settings: Settings, quick: bool) -> Plan:
    work = (settings["dimension"] + 0.1 * settings["examples"] ** 2) * (1 if quick else 4)
    return Plan(runs=2 * len(_RATIOS) + 1, seconds=0.2 + 3e-4 * work)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    draw = torch.Generator().manual_seed(seed)
    copies, dimension = _copies(settings, quick), settings["dimension"]
    courses, wide = [], []
    for ratio in _RATIOS:
        courses.append(_trained(settings, ratio, copies, draw, seed))
        progress()
    for ratio in _RATIOS:
        wide.append(_widths(settings, ratio, 8 if quick else 32, draw, seed))
        progress()
    frozen, decayed = _unfrozen(dimension, 0.0, draw), _unfrozen(dimension, _DECAY, draw)
    progress()

    some = [courses[index] for index in _SOME]
    over = [_overtraining(course.set.mean) for course in courses]
    over_wide = [_overtraining(losses) for losses in wide]
    ends = [float(losses[-1]) for losses in wide]
    share = 0.5 * frozen_share(_RATIOS[_FEW])
    return Outcome(
        measured={
            "test_loss_is_the_integral": max(course.set.deviation() for course in courses),
            "overtraining_peaks_at_one": _peak(over),
            "frozen_share": frozen,
            "first_weights_stay": courses[_FEW].persisting / share,
            "stopping_time": [course.set.at(optimal_stopping(course.set.student)[0]) for course in courses],
            "stopping_is_near_the_best": [float(course.zero.mean.min()) / course.ridge for course in some],
            "same_peak_in_width": _peak(over_wide),
            "wider_is_better": ends[_RATIOS.index(1.0) :],
        },
        controls={
            "twice_the_examples": max(course.set.deviation(2.0) for course in courses),
            "peak_when_stopped": _peak([course.set.mean.min() for course in courses]),
            "weight_decay": decayed,
            "more_examples_than_weights": courses[_MANY].persisting / share,
            "at_the_end": [course.set.at(_LAST) for course in courses],
            "large_first_weights": [float(course.unit.mean.min()) / course.ridge for course in some],
            "widths_when_stopped": _peak([losses.min() for losses in wide]),
            "up_to_the_peak": ends[: _RATIOS.index(1.0) + 1],
        },
        series={
            "ratio": _RATIOS,
            "overtraining": over,
            "overtraining_by_width": over_wide,
            "eval_loss_by_width": ends,
        },
    )


study = Study(
    id="6",
    slug="generalisation-dynamics",
    paper=Paper(
        title="High-dimensional dynamics of generalization error in neural networks",
        authors=("Madhu S. Advani", "Andrew M. Saxe"),
        year=2017,
        url="https://arxiv.org/abs/1710.03667",
    ),
    summary="Overtraining is worst with as many weights as examples; more weights, or fewer, or stopping, protect.",
    settings=(
        Setting("dimension", "int", 100, "inputs and weights of the linear students", 40, 160),
        Setting("signal_to_noise", "float", 2.0, "variance of the targets' signal over that of their noise", 1.0, 8.0),
        Setting("start", "float", 0.5, "norm of the first weights over that of the teacher's", 0.2, 1.0),
        Setting("examples", "int", 60, "examples of the nets, whose width is varied; twice their inputs", 30, 120),
    ),
    statements=(
        Statement(
            "test_loss_is_the_integral",
            "at_most",
            0.03,
            "Relative distance of mean test losses from the integral at any step and ratio, less four standard errors;"
            " finite sizes count as 1 / dimension.",
        ),
        Statement(
            "overtraining_peaks_at_one",
            "equal",
            1.0,
            "Examples over weights, of seven ratios from 1/4 to 4, at which training to the end harms most.",
        ),
        Statement(
            "frozen_share",
            "at_most",
            1e-9,
            "Share of the directions of weight space that training leaves alone, against 1 - examples / weights.",
        ),
        Statement(
            "first_weights_stay",
            "equal",
            1.0,
            "Test loss at the end due to first weights of norm 1, over half the frozen share; half an example a weight,"
            " within five standard errors.",
            tolerance=0.15,
        ),
        Statement(
            "stopping_time",
            "at_most",
            1.01,
            "Test loss at the predicted best step over the least on the way, at every ratio.",
        ),
        Statement(
            "stopping_is_near_the_best",
            "at_most",
            1.05,
            "Least test loss from zero weights over that of the best ridge penalty; at most 1.025 in theory.",
        ),
        Statement(
            "same_peak_in_width",
            "equal",
            1.0,
            "Width over examples at which training the readout of random ReLU units to the end harms most.",
        ),
        Statement(
            "wider_is_better",
            "monotone",
            "decreasing",
            "Test loss at the end from as many units as examples to 4 times.",
        ),
    ),
    controls=(
        Control("twice_the_examples", "test_loss_is_the_integral", "The integral for twice the examples."),
        Control("peak_when_stopped", "overtraining_peaks_at_one", "The ratio with the largest loss at the best step."),
        Control("weight_decay", "frozen_share", "Training with weight decay, which freezes nothing."),
        Control("more_examples_than_weights", "first_weights_stay", "Two examples a weight."),
        Control("at_the_end", "stopping_time", "The last step instead."),
        Control("large_first_weights", "stopping_is_near_the_best", "First weights of norm 1."),
        Control("widths_when_stopped", "same_peak_in_width", "The width with the largest loss at the best step."),
        Control("up_to_the_peak", "wider_is_better", "Test loss at the end from a quarter as many units to as many."),
    ),
    plan=_plan,
    run=_run,
    smoke={"dimension": 40, "examples": 30},
)
