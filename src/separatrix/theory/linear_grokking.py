"""Grokking in a linear model: losses and accuracies from the spectrum of the training covariance alone.

A student S (inputs, outputs) learns a teacher T of the same shape from n examples x ~ N(0, 1) by gradient descent of
step size s on the mean squared error over examples and outputs, with weight decay g added to the gradient (as in
torch.optim.SGD). Entries of T have variance 1 / inputs, those of S(0) `init` times that. Along an eigenvector of the
training covariance with eigenvalue v, with a = 2 v / outputs,

    S(t) - T = f^t S(0) - (1 - b + b f^t) T,     f = 1 - s (a + g),     b = a / (a + g) (0 if both vanish),

so that an entry of S(t) - T has the variance r(v) = (f^2t init + (1 - b + b f^t)^2) / inputs. The test loss is the sum
of r over the spectrum, the training loss that of v r; without decay these are the paper's formulas, in discrete time.
The spectrum is measured, or that of Marchenko and Pastur for q = inputs / examples, edges (1 -+ sqrt q)^2; its first
correction for finite size (a quarter at either edge less half the arcsine law, Bai and Silverstein for real data) is
kept. It breaks down once less than about one eigenvalue remains to be learnt.

An example counts as right if its squared error, mean over outputs, is at most a threshold e. Given x and the spectrum,
its errors are independent normal ones with variance V = sum_i x_i^2 r_i, so that P(right) = P(chi^2 <= outputs e / V).
The paper puts in the mean of V; here V has the shifted gamma distribution with its first three moments (Pearson), those
of a fresh x for the test, of rows of a random orthonormal matrix for training (a normal row is such a row times a
length that is independent of it, which divides its moments).

Late in training both losses fall like f^2t at the lower edge v, and their ratio is v: training and test accuracy pass
any level about log(1 / v) / (-2 log f) steps apart, which diverges as q goes to 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import gammainc, gammaincinv

from separatrix.runs import SeriesSpec
from separatrix.tasks import ensemble
from separatrix.theory._averages import averaged
from separatrix.theory.linear_students import compressed, learnt, students
from separatrix.theory.theory import (
    Band,
    Curves,
    Floats,
    Law,
    Paper,
    Prediction,
    Setting,
    Settings,
    Simulation,
    Theory,
)

_NODES = 4000
_LEAST = 1e-9  # the lower edge as good as touches 0 if there are as many examples as inputs, but all is learnt
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_LAST = 800
_WORK = 400_000_000  # multiplications of one simulation, about
_TESTS = 256


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of training covariances and how many there are of each: both (copies, values), or (1, values)."""

    values: Floats
    counts: Floats
    examples: int

    @property
    def inputs(self) -> float:
        """How many eigenvalues a covariance has."""
        return float(self.counts[0].sum())


def edges(ratio: float) -> tuple[float, float]:
    """Least and largest eigenvalue above 0, for inputs over examples, of infinitely many."""
    return (1.0 - math.sqrt(ratio)) ** 2, (1.0 + math.sqrt(ratio)) ** 2


def marchenko_pastur(inputs: int, examples: int, *, finite_size: bool = True) -> Spectrum:
    """The mean spectrum of covariances of standard normal inputs, to first order in one over the size."""
    ratio = inputs / examples
    angle = (np.arange(_NODES) + 0.5) * np.pi / _NODES
    values = 1.0 + ratio - 2.0 * math.sqrt(ratio) * np.cos(angle)
    counts = inputs * 2.0 / _NODES * np.sin(angle) ** 2 / values
    counts *= min(inputs, examples) / counts.sum()
    low, high = edges(ratio)
    ends, at_ends = np.array([0.0, max(low, _LEAST), high]), np.array([max(inputs - examples, 0), 0.0, 0.0])
    if finite_size:
        counts -= 0.5 / _NODES
        at_ends[1:] += 0.25
    return Spectrum(np.concatenate((ends, values))[None], np.concatenate((at_ends, counts))[None], examples)


@dataclasses.dataclass(frozen=True)
class Descent:
    """Gradient descent at `rate` with weight `decay`; `init` is the variance of first weights over the teacher's."""

    rate: float
    decay: float
    outputs: int
    init: float

    def contraction(self, values: Floats) -> Floats:
        """What a step multiplies a student's distance from its end by, along eigenvectors with these eigenvalues."""
        return np.asarray(1.0 - self.rate * (2.0 * values / self.outputs + self.decay))

    def variances(self, spectrum: Spectrum, steps: Sequence[int]) -> Floats:
        """Variance of the entries of S - T along each eigenvector, (steps, copies, values)."""
        pull = 2.0 * spectrum.values / self.outputs
        still = pull + self.decay == 0.0
        learnt = np.where(still, 0.0, pull / np.where(still, 1.0, pull + self.decay))
        left = self.contraction(spectrum.values) ** np.asarray(steps, dtype=np.float64)[:, None, None]
        return np.asarray((left**2 * self.init + (1.0 - learnt + learnt * left) ** 2) / spectrum.inputs)


def _right(moments: tuple[Floats, Floats, Floats], outputs: int, threshold: float) -> Floats:
    """Share of errors below the threshold, (...), for a variance V with these first three moments, (...) each."""
    mean, second, third = moments
    scale = np.maximum(mean, 1e-100)
    second, third = second / scale**2 - 1.0, third / scale**3 - 3.0 * second / scale**2 + 2.0
    spread = np.maximum(second, 1e-6)
    skew = np.maximum(third, 2.0 * spread**2)  # with a smaller one V would have to go below 0
    shape, unit = 4.0 * spread**3 / skew**2, skew / spread / 2.0
    draws = 1.0 + unit[..., None] * (gammaincinv(shape[..., None], (1.0 + _POINTS) / 2.0) - shape[..., None])
    bound = outputs * threshold / 2.0 / scale[..., None] / np.maximum(draws, 1e-9)
    return np.asarray(gammainc(outputs / 2.0, bound) @ _WEIGHTS / 2.0)


def curves(spectrum: Spectrum, descent: Descent, threshold: float, steps: Sequence[int]) -> Curves:
    """Loss, eval_loss, accuracy and eval_accuracy after each of `steps`, means over copies, each (steps,)."""
    variances = descent.variances(spectrum, steps)

    def moments(parts: Floats) -> tuple[Floats, Floats, Floats]:
        """Of a sum of squares of independent normal numbers with these variances."""
        one, two, three = (np.maximum((parts**power * spectrum.counts).sum(-1), 0.0) for power in (1, 2, 3))
        return one, one**2 + 2.0 * two, one**3 + 6.0 * one * two + 8.0 * three

    test, train = moments(variances), moments(spectrum.values * variances)
    few = 2.0 / spectrum.examples
    rows = train[0], train[1] / (1.0 + few), train[2] / (1.0 + few) / (1.0 + 2.0 * few)
    return {
        "loss": train[0].mean(-1),
        "eval_loss": test[0].mean(-1),
        "accuracy": _right(rows, descent.outputs, threshold).mean(-1),
        "eval_accuracy": _right(test, descent.outputs, threshold).mean(-1),
    }


def grokking_times(
    spectrum: Spectrum, descent: Descent, threshold: float, *, level: float = 0.95, last: int = 10**7
) -> tuple[float, float]:
    """Steps after which training and test accuracy pass the level; infinite where they do not by `last`."""

    def passed(name: str) -> float:
        low, high = 0, 1
        while curves(spectrum, descent, threshold, [high])[name][0] < level:
            low, high = high, 2 * high
            if low > last:
                return math.inf
        while high - low > 1:
            middle = (low + high) // 2
            reached = curves(spectrum, descent, threshold, [middle])[name][0] >= level
            low, high = (low, middle) if reached else (middle, high)
        return float(high)

    return passed("accuracy"), passed("eval_accuracy")


def late_gap(ratio: float, descent: Descent) -> float:
    """Steps between training and test accuracy in the limit of small thresholds and infinite size, for ratio < 1."""
    low, _ = edges(ratio)
    return -math.log(low) / (-2.0 * math.log(float(descent.contraction(np.array(low)))))


@dataclasses.dataclass(frozen=True)
class Problem:
    """`data` (copies, examples, inputs) are the training inputs, or None where only their sizes are known."""

    inputs: int
    examples: int
    copies: int
    descent: Descent
    threshold: float
    data: torch.Tensor | None


def _inputs(copies: int, examples: int, inputs: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(copies, examples, inputs, dtype=torch.float64, generator=generator)


def _problem(settings: Settings, seed: int) -> Problem:
    inputs, outputs = settings["inputs"], settings["outputs"]
    examples = max(2, round(inputs / settings["ratio"]))
    decay = 2.0 * settings["decay"] / outputs
    _, high = edges(inputs / examples)
    rate = settings["rate"] / (2.0 * high / outputs + decay)
    descent = Descent(rate, decay, outputs, settings["init"])
    work = examples * inputs * (2 * outputs * _last(inputs / examples, descent) + 1000)
    copies = min(max(_WORK // work, 24), 64)
    data = None
    if settings["spectrum"] == "measured":
        data = _inputs(copies, examples, inputs, torch.Generator().manual_seed(seed))
    return Problem(inputs, examples, copies, descent, settings["threshold"], data)


def _spectrum(problem: Problem) -> Spectrum:
    if problem.data is None:
        return marchenko_pastur(problem.inputs, problem.examples)
    values = torch.linalg.eigvalsh(problem.data.mT @ problem.data / problem.examples).clamp(min=0.0).numpy()
    values = np.where(values > 1e-12, values, 0.0)
    return Spectrum(values, np.ones_like(values), problem.examples)


def _last(ratio: float, descent: Descent) -> int:
    """Steps in which the slowest direction decays by e^-7, at most."""
    low, _ = edges(ratio)
    speed = 1.0 - float(descent.contraction(np.array(low)))
    return math.ceil(min(_LAST, 7.0 / max(speed, 1e-9)))


def _steps(problem: Problem) -> list[int]:
    last = _last(problem.inputs / problem.examples, problem.descent)
    return sorted({0, *(round(last ** (k / 40)) for k in range(41))})


def _predict(problem: Problem, steps: Sequence[int]) -> Curves:
    return curves(_spectrum(problem), problem.descent, problem.threshold, steps)


def _share_error(share: Floats, examples: int) -> Floats:
    """Standard error of a share of so many independent examples by the rule of succession: above 0 even for none."""
    rate = (share * examples + 1.0) / (examples + 2.0)
    return np.asarray(np.sqrt(rate * (1.0 - rate) / examples))


def _simulate(problem: Problem, steps: Sequence[int], seed: int) -> Simulation:
    """Gradient descent of many students, each with a teacher, training inputs and fresh test inputs of its own."""
    generator = torch.Generator().manual_seed(seed + 1)
    copies, descent, outputs = problem.copies, problem.descent, problem.descent.outputs
    x = problem.data
    if x is None:
        x = _inputs(copies, problem.examples, problem.inputs, generator)
    fresh = _inputs(copies, _TESTS, problem.inputs, generator)
    shape = (copies, problem.inputs, outputs)
    teacher, student = torch.randn((2, *shape), dtype=torch.float64, generator=generator) / math.sqrt(problem.inputs)
    student = math.sqrt(descent.init) * student
    few = compressed(x, x @ teacher)
    training = ensemble.train(
        students(student),
        torch.nn.functional.mse_loss,
        ensemble.SGD(descent.rate, descent.decay),
        lambda step: few,
        max(*steps, 1),
        measure={"weights": learnt},
        every=steps,
    )
    away = training.measured["weights"].values - teacher
    train, test = (torch.stack([(part @ now).square().mean(2) for now in away]) for part in (x, fresh))
    rights = {"accuracy": train <= problem.threshold, "eval_accuracy": test <= problem.threshold}
    values = {"loss": train, "eval_loss": test} | {name: right.double() for name, right in rights.items()}
    found = averaged({name: value.mean(2) for name, value in values.items()})
    spread = dict(found.standard_errors)
    for name, examples in (("accuracy", problem.examples), ("eval_accuracy", _TESTS)):
        spread[name] = np.maximum(spread[name], _share_error(found.curves[name], copies * examples))
    return Simulation(found.curves, spread)


def _start(problem: Problem, seen: Prediction) -> float:
    return abs(float(seen["eval_loss"][0]) / (1.0 + problem.descent.init) - 1.0)


def _first_step(problem: Problem, seen: Prediction) -> float:
    """Distance of the test loss after one step from that by the first two moments of the covariance."""
    descent, outputs = problem.descent, problem.descent.outputs
    first, second = 1.0, 1.0 + (problem.inputs + 1) / problem.examples
    if problem.data is not None:
        covariance = problem.data.mT @ problem.data / problem.examples
        first = float(covariance.diagonal(dim1=1, dim2=2).mean())
        second = float(covariance.square().sum((1, 2)).mean()) / problem.inputs
    pull, shrink = 2.0 * descent.rate / outputs, 1.0 - descent.rate * descent.decay
    student = shrink**2 - 2.0 * shrink * pull * first + pull**2 * second
    teacher = 1.0 - 2.0 * pull * first + pull**2 * second
    expected = descent.init * student + teacher
    return abs(float(_predict(problem, [1])["eval_loss"][0]) / expected - 1.0)


def _unseen_directions(problem: Problem, seen: Prediction) -> float:
    """Without decay, what is never learnt: the directions that no training input has."""
    free = dataclasses.replace(problem, descent=dataclasses.replace(problem.descent, decay=0.0))
    unseen = max(problem.inputs - problem.examples, 0) / problem.inputs
    scale = 1.0 + problem.descent.init
    return abs(float(_predict(free, [10**15])["eval_loss"][0]) / scale - unseen)


def _fresh_start(problem: Problem, seen: Prediction) -> float:
    """The accuracy at the start, against the chi-squared distribution in as many dimensions as there are inputs."""
    shape = problem.inputs / 2.0
    draws = gammaincinv(shape, (np.arange(4000) + 0.5) / 4000) / shape * (1.0 + problem.descent.init)
    outputs = problem.descent.outputs
    expected = gammainc(outputs / 2.0, outputs * problem.threshold / 2.0 / draws).mean()
    return abs(float(seen["eval_accuracy"][0]) - float(expected))


def _wrong(settings: Settings) -> Settings:
    return {**settings, "ratio": settings["ratio"] * (2.0 if settings["ratio"] < 0.4 else 0.5)}


THEORY = Theory(
    name="linear-grokking",
    question="Why does test accuracy rise long after training accuracy, and how many steps later?",
    assumptions=(
        "Student and teacher are linear, inputs are independent standard normal ones, targets have no noise.",
        "Training is gradient descent on all examples; an example is right if its error is below a threshold.",
        "Teacher and student start as independent normal matrices.",
    ),
    papers=(
        Paper(
            "Grokking in Linear Estimators -- A Solvable Model that Groks without Understanding",
            ("Noam Levi", "Alon Beck", "Yohai Bar-Sinai"),
            2023,
            "https://arxiv.org/abs/2310.16441",
        ),
    ),
    settings=(
        Setting(
            "spectrum",
            "str",
            "marchenko-pastur",
            "of the training covariance: from the sizes alone, or that of the training inputs",
            choices=("marchenko-pastur", "measured"),
        ),
        Setting("inputs", "int", 48, "inputs", 20, 80),
        Setting("outputs", "int", 1, "outputs", 1, 4),
        Setting("ratio", "float", 0.75, "inputs over training examples", 0.2, 0.8),
        Setting("rate", "float", 1.0, "learning rate over 1 / largest curvature", 0.4, 1.6),
        Setting("decay", "float", 0.0, "weight decay over the mean curvature", 0.0, 0.02),
        Setting("init", "float", 1.0, "variance of the student's weights at the start over the teacher's", 0.25, 4.0),
        Setting("threshold", "float", 0.01, "squared error up to which an example is right", 0.002, 0.2),
    ),
    series=(
        SeriesSpec("loss", description="mean squared error of the training examples"),
        SeriesSpec("eval_loss", description="mean squared error on fresh examples"),
        SeriesSpec("accuracy", description="share of training examples with an error below the threshold"),
        SeriesSpec("eval_accuracy", description="share of fresh examples with an error below the threshold"),
    ),
    problem=_problem,
    steps=_steps,
    predict=_predict,
    simulate=_simulate,
    bands=(
        Band("loss", 0.01, "finite size: the mean spectrum is known to first order in one over the inputs"),
        Band("eval_loss", 0.01, "finite size: the mean spectrum is known to first order in one over the inputs"),
        Band("accuracy", 0.02, "finite size, and only three moments of the variance of an error are kept"),
        Band("eval_accuracy", 0.05, "finite size: the least eigenvalues vary from one training set to the next"),
    ),
    laws=(
        Law("start", "the test loss starts at the variance of teacher and student", _start),
        Law("first-step", "the first step follows from two moments of the covariance", _first_step, 1e-6),
        Law("unseen-directions", "without decay all is learnt but directions no input has", _unseen_directions, 1e-6),
        Law("first-accuracy", "the first accuracy is that of untrained outputs", _fresh_start, 2e-3),
    ),
    wrong=_wrong,
    smoke={"inputs": 32, "ratio": 0.5},
)
