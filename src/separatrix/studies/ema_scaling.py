"""Averages of weights at other batch sizes: momentum rho^kappa keeps their path, momentum left as it is does not.

Three problems, at batches kappa = 1, 2, 4, 8, 16 times a base, learning rate times kappa, equal examples seen:

- The noisy quadratic: SGD at curvature 1 with gradient noise of variance 1 / batch, and an average with a memory of one
  unit of time (learning rate times steps). The pair (weight, average) is linear, so that mean and covariance of the
  average are exact products of matrices. In the limit of small rates all kappa follow one stochastic differential
  equation; the rule's error falls like the rate (weak order 1), that of the unscaled momentum does not fall.
- A net on handwritten digits, whose larger batches are made of the same examples: how far the averages lie apart, over
  the length of the way that the base's average went.
- Pseudo-labels, where the average teaches: a net learns from a few labels and from its average's predictions on the
  other digits. What is compared is the accuracy of the average on test digits.

The paper's self-supervised runs (BYOL) are not repeated: on digits of 8 x 8 pixels a linear probe of an untrained net
is nearly as good as that of a trained one, so that no rule could fail there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from separatrix.steer.averaging import scaled_momentum
from separatrix.studies.study import Control, Outcome, Paper, Plan, Progress, Setting, Settings, Statement, Study
from separatrix.tasks import Digits

_KAPPAS = (2, 4, 8, 16)
_TIME = 4.0
_RATE = 0.001
_HIDDEN = 32
_LABELLED = 100
_DOUBLE = torch.float64


def _moments(rate: float, momentum: float, noise: float, steps: int) -> Tensor:
    """Mean and standard deviation of the average after each step, (steps, 2), from weight and average 1.

    A step: w <- w - rate (w + noise z), then average <- momentum average + (1 - momentum) w.
    """
    kept = 1.0 - rate
    matrix = torch.tensor([[kept, 0.0], [(1 - momentum) * kept, momentum]], dtype=_DOUBLE)
    kick = -rate * noise * torch.tensor([1.0, 1 - momentum], dtype=_DOUBLE)
    mean, covariance = torch.ones(2, dtype=_DOUBLE), torch.zeros(2, 2, dtype=_DOUBLE)
    found = torch.empty(steps, 2, dtype=_DOUBLE)
    for step in range(steps):
        mean = matrix @ mean
        covariance = matrix @ covariance @ matrix.T + kick[:, None] * kick
        found[step, 0], found[step, 1] = mean[1], covariance[1, 1].sqrt()
    return found


def _quadratic_errors(rate: float, kappas: Sequence[int]) -> tuple[list[float], list[float]]:
    """Errors by the rule and with unscaled momentum, one a kappa: between batches 1 and kappa, at equal times.

    Each is the largest difference of the average's mean, which starts from 1, or of its standard deviation, relative to
    the largest one.
    """
    momentum = math.exp(-rate)
    base = _moments(rate, momentum, 1.0, round(_TIME / rate))
    unit = torch.tensor([1.0, float(base[:, 1].max())], dtype=_DOUBLE)
    ruled: list[float] = []
    unscaled: list[float] = []
    for kappa in kappas:
        at = base[kappa - 1 :: kappa]
        for found, each in ((ruled, scaled_momentum(momentum, kappa)), (unscaled, momentum)):
            other = _moments(rate * kappa, each, 1 / math.sqrt(kappa), len(at))
            found.append(float(((other - at).abs() / unit).max()))
    return ruled, unscaled


@dataclasses.dataclass(frozen=True)
class _Net:
    """Weights of copies of a net with one hidden layer of tanh units, (copies, ...)."""

    first: Tensor
    bias: Tensor
    second: Tensor
    offset: Tensor

    def parts(self) -> tuple[Tensor, ...]:
        return self.first, self.bias, self.second, self.offset

    def clone(self) -> _Net:
        return _Net(*(part.clone() for part in self.parts()))

    def flat(self) -> Tensor:
        return torch.cat([part.flatten(1) for part in self.parts()], 1)

    def outputs(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden units and logits for inputs (copies, n, d)."""
        hidden = torch.tanh(inputs @ self.first + self.bias[:, None])
        return hidden, hidden @ self.second + self.offset[:, None]

    def gradient(self, inputs: Tensor, targets: Tensor) -> _Net:
        """Gradient of the mean cross-entropy with target distributions (copies, n, classes)."""
        hidden, logits = self.outputs(inputs)
        upper = (logits.softmax(2) - targets) / inputs.shape[1]
        lower = (upper @ self.second.mT) * (1 - hidden.square())
        return _Net(inputs.mT @ lower, lower.sum(1), hidden.mT @ upper, upper.sum(1))

    def descend(self, gradient: _Net, rate: float) -> None:
        for part, slope in zip(self.parts(), gradient.parts(), strict=True):
            part.sub_(slope, alpha=rate)

    def follow(self, other: _Net, momentum: float) -> None:
        for part, value in zip(self.parts(), other.parts(), strict=True):
            part.lerp_(value, 1 - momentum)


def _drawn(copies: int, inputs: int, classes: int, generator: torch.Generator) -> _Net:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=_DOUBLE, generator=generator)

    return _Net(
        normal(copies, inputs, _HIDDEN) / math.sqrt(inputs),
        torch.zeros(copies, _HIDDEN, dtype=_DOUBLE),
        normal(copies, _HIDDEN, classes) / math.sqrt(_HIDDEN),
        torch.zeros(copies, classes, dtype=_DOUBLE),
    )


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Digits, and for each base step the rows that it draws, (steps, copies, batch): labelled ones, and others."""

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    start: _Net
    rows: Tensor
    unlabelled: Tensor
    rate: float
    momentum: float

    @property
    def steps(self) -> int:
        return len(self.rows)


def _problem(settings: Settings, copies: int, steps: int, seed: int, labelled: int | None) -> _Problem:
    generator = torch.Generator().manual_seed(seed)
    train, test = Digits(seed=seed).load()
    inputs, test_inputs = (part.inputs.flatten(1).to(_DOUBLE) for part in (train, test))
    # The split has shuffled the rows, so that the first ones are as good as any.
    known = len(inputs) if labelled is None else labelled
    shape = (steps, copies, settings["batch"])
    return _Problem(
        inputs=inputs,
        targets=torch.nn.functional.one_hot(train.targets, 10).to(_DOUBLE),
        test_inputs=test_inputs,
        test_labels=test.targets,
        start=_drawn(copies, inputs.shape[1], 10, generator),
        rows=torch.randint(known, shape, generator=generator),
        unlabelled=torch.randint(len(inputs), shape, generator=generator),
        rate=settings["learning_rate"],
        momentum=1 - 1 / settings["memory"],
    )


def _joined(rows: Tensor, step: int, kappa: int) -> Tensor:
    """The rows (copies, kappa batch) of the large batch that takes the place of kappa base steps."""
    return rows[step * kappa : (step + 1) * kappa].movedim(0, 1).flatten(1)


def _supervised(problem: _Problem, kappa: int, momenta: Sequence[float], marks: int) -> list[Tensor]:
    """For each momentum the averages at `marks` evenly spaced times, (marks, copies, size)."""
    net = problem.start.clone()
    averages = [problem.start.clone() for _ in momenta]
    steps = problem.steps // kappa
    kept: list[list[Tensor]] = [[] for _ in momenta]
    for step in range(steps):
        rows = _joined(problem.rows, step, kappa)
        net.descend(net.gradient(problem.inputs[rows], problem.targets[rows]), problem.rate * kappa)
        for average, momentum, stored in zip(averages, momenta, kept, strict=True):
            average.follow(net, momentum)
            if (step + 1) % (steps // marks) == 0:
                stored.append(average.flat())
    return [torch.stack(stored) for stored in kept]


def _digits_distances(problem: _Problem, marks: int, progress: Progress) -> tuple[list[float], list[float]]:
    """Distances between averages at batches kappa and 1, over the way of the latter: by the rule, and unscaled."""
    (base,) = _supervised(problem, 1, [problem.momentum], marks)
    progress()
    way = (base - problem.start.flat()).norm(dim=2)
    ruled: list[float] = []
    unscaled: list[float] = []
    for kappa in _KAPPAS:
        momenta = [scaled_momentum(problem.momentum, kappa), problem.momentum]
        for found, averages in zip((ruled, unscaled), _supervised(problem, kappa, momenta, marks), strict=True):
            found.append(float(((averages - base).norm(dim=2) / way).mean()))
        progress()
    return ruled, unscaled


def _taught(problem: _Problem, kappa: int, momentum: float) -> float:
    """Mean test accuracy of averages that taught their nets, half of whose loss is agreement with them."""
    net, teacher = problem.start.clone(), problem.start.clone()
    for step in range(problem.steps // kappa):
        rows, others = _joined(problem.rows, step, kappa), _joined(problem.unlabelled, step, kappa)
        guessed = teacher.outputs(problem.inputs[others])[1].argmax(2)
        pseudo = torch.nn.functional.one_hot(guessed, 10).to(_DOUBLE)
        inputs = torch.cat([problem.inputs[rows], problem.inputs[others]], 1)
        gradient = net.gradient(inputs, torch.cat([problem.targets[rows], pseudo], 1))
        net.descend(gradient, 2 * problem.rate * kappa)
        teacher.follow(net, momentum)
    copies = len(teacher.bias)
    answers = teacher.outputs(problem.test_inputs.expand(copies, -1, -1))[1].argmax(2)
    return float((answers == problem.test_labels).double().mean())


def _sizes(settings: Settings, quick: bool) -> tuple[int, int]:
    """Copies, and base steps: thirty memories of the average, a multiple of 16 times the marks."""
    return (4 if quick else 16), 30 * settings["memory"] // 160 * 160


def _plan(settings: Settings, quick: bool) -> Plan:
    copies, steps = _sizes(settings, quick)
    return Plan(runs=3 + 2 * len(_KAPPAS), seconds=0.2 + 3e-5 * steps * (4 + copies) * settings["batch"] / 8)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    coarse, fine = _quadratic_errors(4 * _RATE, _KAPPAS[-1:]), _quadratic_errors(_RATE, _KAPPAS)
    orders = [math.log(rough[-1] / small[-1]) / math.log(4) for rough, small in zip(coarse, fine, strict=True)]
    progress()
    copies, steps = _sizes(settings, quick)
    ruled, unscaled = _digits_distances(_problem(settings, copies, steps, seed, None), 10, progress)
    problem = _problem(settings, copies, steps, seed, _LABELLED)
    base = _taught(problem, 1, problem.momentum)
    progress()
    taught = {}
    for kappa in _KAPPAS:
        scaled_one = scaled_momentum(problem.momentum, kappa)
        taught[kappa] = tuple(_taught(problem, kappa, momentum) for momentum in (scaled_one, problem.momentum))
        progress()
    return Outcome(
        measured={
            "quadratic_order": orders[0],
            "quadratic_path": fine[0],
            "digits_path": ruled,
            "taught_accuracy": [taught[kappa][0] - base for kappa in _KAPPAS],
        },
        controls={
            "unscaled_quadratic_order": orders[1],
            "unscaled_quadratic_path": fine[1],
            "unscaled_digits_path": unscaled,
            "unscaled_taught_accuracy": [taught[kappa][1] - base for kappa in _KAPPAS],
        },
        series={"kappa": _KAPPAS, "base_accuracy": [base]},
    )


study = Study(
    id="392",
    slug="ema-scaling",
    paper=Paper(
        title="How to Scale Your EMA",
        authors=(
            "Dan Busbridge",
            "Jason Ramapuram",
            "Pierre Ablin",
            "Tatiana Likhomanenko",
            "Eeshan Gunesh Dhekane",
            "Xavier Suau",
            "Russ Webb",
        ),
        year=2023,
        url="https://arxiv.org/abs/2307.13813",
    ),
    summary="At batches kappa times as large an average of weights keeps its path with momentum rho^kappa only.",
    settings=(
        Setting("batch", "int", 8, "examples in the base batch", 4, 16),
        Setting("learning_rate", "float", 0.01, "of the base, for nets on digits", 0.005, 0.02),
        Setting("memory", "int", 160, "1 / (1 - momentum) of the base, in steps", 80, 320),
    ),
    statements=(
        Statement(
            "quadratic_order",
            "interval",
            (0.9, 1.1),
            "Power of the rate with which the error of the rule falls at kappa 16: weak order 1 of the equation.",
        ),
        Statement(
            "quadratic_path",
            "at_most",
            0.02,
            "Largest error of mean and deviation of the average, for kappa 2 to 16 at rate 0.001: of the order of the"
            " largest step, 0.016.",
        ),
        Statement(
            "digits_path",
            "at_most",
            0.1,
            "Distance of averages of nets on digits to those at kappa 1, over the way of these, for kappa 2 to 16.",
        ),
        Statement(
            "taught_accuracy",
            "interval",
            (-0.03, 0.03),
            "Accuracy with pseudo-labels minus that at kappa 1, for kappa 2 to 16: within the 11 of 360 test digits by"
            " which about two standard errors of one accuracy of 0.9 may move it.",
        ),
    ),
    controls=(
        Control("unscaled_quadratic_order", "quadratic_order", "Momentum left as it is."),
        Control("unscaled_quadratic_path", "quadratic_path", "Momentum left as it is."),
        Control("unscaled_digits_path", "digits_path", "Momentum left as it is."),
        Control("unscaled_taught_accuracy", "taught_accuracy", "Momentum left as it is."),
    ),
    plan=_plan,
    run=_run,
    smoke={"memory": 80},
)
