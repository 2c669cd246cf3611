"""Generalisation of a linear student in high dimension: test and training loss over time from one eigenvalue density.

Inputs x in N dimensions are standard normal, targets y = v.x + noise with |v| = 1 and noise variance 1 / SNR. A linear
student starts at weights of norm `start` in a random direction and descends half the mean squared error on P examples
with learning rate r. Each eigendirection of X'X/P, eigenvalue l, shrinks by g = (1 - r l)^t in t steps; with the noise
projected on it the expected squared error of its weight, times N, is (Advani and Saxe 2017, section 2, there in the
limit of small r, where g = exp(-l t))

    (1 + start^2) g^2 + (N / P) (1 - g)^2 / (SNR l),

the second term being 0 for l = 0. For N, P -> infinity at alpha = P / N the eigenvalues have the Marchenko-Pastur
density sqrt((l_+ - l)(l - l_-)) alpha / (2 pi l), l_+- = (1 +- alpha^(-1/2))^2, and a share 1 - alpha of them is 0 if
alpha < 1: directions in which nothing is ever learned or forgotten. Averages over the density give all curves; those
over single realisations lie near as 1 / N.

Losses are half the mean squared error, noise included. For the integrals: with l = m + w cos(phi) the
density is sin^2(phi) over l, and the midpoint rule in phi converges exponentially, also for alpha = 1 where l_- = 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy import optimize

from separatrix.runs.settings import Settings
from separatrix.runs.types import SeriesSpec
from separatrix.tasks import LinearTeacher, ensemble
from separatrix.theory._averages import averaged
from separatrix.theory.linear_students import compressed, half_squares, learnt, students
from separatrix.theory.theory import Band, Curves, Floats, Law, Paper, Prediction, Setting, Simulation, Theory

__all__ = [
    "THEORY",
    "LinearStudent",
    "curves",
    "fitted_eval_loss",
    "frozen_share",
    "optimal_stopping",
    "ridge_eval_loss",
    "spectral_mean",
]

_NODES = 4096
_LAST = 400
_WEIGHTS = 4000  # of all students of a simulation


def frozen_share(alpha: float) -> float:
    """Share of weight space in which gradient descent on P = alpha N examples changes nothing."""
    return max(0.0, 1.0 - alpha)


def spectral_mean(function: Callable[[Floats], Floats], alpha: float) -> Floats:
    """Mean of `function` over the eigenvalues of X'X/P that are not 0, times their share; l (nodes,) -> (..., nodes).

    For alpha < 1 add the share `frozen_share(alpha)` times the value at 0.
    """
    angle = np.pi * (np.arange(_NODES) + 0.5) / _NODES
    ratio = 1.0 / alpha
    # Not 1 + ratio + 2 sqrt(ratio) cos(angle), which loses what is left near 0.
    values = (1.0 - math.sqrt(ratio)) ** 2 + 4.0 * math.sqrt(ratio) * np.cos(angle / 2.0) ** 2
    weights = 2.0 * np.sin(angle) ** 2 / values / _NODES
    return np.asarray((function(values) * weights).sum(-1), dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class LinearStudent:
    """`examples` P of `dimension` N, signal to noise ratio (variances), norm of the first weights, learning rate."""

    dimension: int
    examples: int
    signal_to_noise: float
    start: float
    rate: float
    seed: int = 0

    @property
    def alpha(self) -> float:
        """Examples over dimension."""
        return self.examples / self.dimension

    @property
    def noise(self) -> float:
        """Variance of the targets' noise, that of the signal being 1."""
        return 1.0 / self.signal_to_noise


def curves(student: LinearStudent, steps: Sequence[float]) -> Curves:
    """What the series of the theory should be after `steps`, in high dimension; steps need not be whole."""
    alpha, noise, spread = student.alpha, student.noise, 1.0 + student.start**2
    time = np.asarray(steps, dtype=np.float64)[:, None]
    frozen = frozen_share(alpha)

    def left(values: Floats) -> Floats:
        """The factor g, (steps, nodes); of either sign as the learning rate is below 2 / the largest eigenvalue."""
        shrunk = 1.0 - student.rate * values
        sign = np.where((shrunk < 0.0) & (time % 2.0 == 1.0), -1.0, 1.0)
        return np.asarray(sign * np.abs(shrunk) ** time, dtype=np.float64)

    def mean(function: Callable[[Floats, Floats], Floats]) -> Floats:
        return spectral_mean(lambda values: function(left(values), values), alpha)

    error = spread * (mean(lambda g, e: g**2) + frozen) + noise / alpha * mean(lambda g, e: (1.0 - g) ** 2 / e)
    residual = mean(lambda g, e: g**2 * (spread * e + noise / alpha)) + noise * max(0.0, 1.0 - 1.0 / alpha)
    norm = student.start**2 * (mean(lambda g, e: g**2) + frozen)
    norm = norm + mean(lambda g, e: (1.0 - g) ** 2 * (1.0 + noise / (alpha * e)))
    return {
        "loss": 0.5 * residual,
        "eval_loss": 0.5 * (error + noise),
        "weight_norm": np.sqrt(norm),
        "teacher_overlap": mean(lambda g, e: 1.0 - g),
    }


def fitted_eval_loss(student: LinearStudent) -> float:
    """Test loss when training has converged; infinite at alpha = 1.

    Beyond it (Hastie et al. 2019, theorem 1) the noise adds noise / (alpha - 1); below, noise alpha / (1 - alpha), and
    what was frozen stays: (1 + start^2)(1 - alpha).
    """
    alpha, noise = student.alpha, student.noise
    if alpha == 1.0:
        return math.inf
    learned = noise / (alpha - 1.0) if alpha > 1.0 else noise * alpha / (1.0 - alpha)
    return 0.5 * (noise + learned + (1.0 + student.start**2) * frozen_share(alpha))


def ridge_eval_loss(student: LinearStudent) -> float:
    """Test loss of ridge regression with the best penalty, 1 / SNR on the sum of squares: the best linear estimate."""
    alpha, noise = student.alpha, student.noise
    learned = spectral_mean(lambda e: noise / (alpha * e + noise), alpha)
    return 0.5 * float(noise + learned + frozen_share(alpha))


def optimal_stopping(student: LinearStudent) -> tuple[float, float]:
    """The step, not rounded, with the least test loss, and that loss; for rates below 1 / the largest eigenvalue.

    One direction alone would be best at g = 1 / (1 + (1 + start^2) SNR alpha l): those times, shorter for larger l,
    hold the best time of all between them.
    """
    edge = (1.0 + 1.0 / math.sqrt(student.alpha)) ** 2
    signal = (1.0 + student.start**2) * student.signal_to_noise * student.alpha
    first = math.log1p(signal * edge) / -math.log1p(-student.rate * edge)
    last = signal / student.rate  # for l -> 0

    def loss(log_time: float) -> float:
        return float(curves(student, [math.exp(log_time)])["eval_loss"][0])

    found = optimize.minimize_scalar(
        loss, bounds=(math.log(first) - 1e-3, math.log(last) + 1e-3), method="bounded", options={"xatol": 1e-6}
    )
    return math.exp(float(found.x)), float(found.fun)


def _problem(settings: Settings, seed: int) -> LinearStudent:
    dimension = int(settings["dimension"])
    examples = max(1, round(settings["examples_per_weight"] * dimension))
    edge = (1.0 + math.sqrt(dimension / examples)) ** 2
    return LinearStudent(
        dimension, examples, settings["signal_to_noise"], settings["start"], settings["rate"] / edge, seed
    )


def _steps(student: LinearStudent) -> list[int]:
    return sorted({0, *(round(_LAST ** (power / 59.0)) for power in range(60))})


def _simulate(student: LinearStudent, steps: Sequence[int], seed: int) -> Simulation:
    """Students on data of their own, side by side, each with a twin that starts from the opposite weights.

    What is reported are means over data of means over twins, which are free of chance overlaps with the first weights.
    """
    draw = torch.Generator().manual_seed(seed)
    copies = math.ceil(_WEIGHTS / student.dimension)
    teacher = LinearTeacher(
        dimension=student.dimension, noise=math.sqrt(student.noise), seed=student.seed, dtype=torch.float64
    )
    inputs, targets = teacher.sample(copies * student.examples, draw).stacked(copies)
    directions = torch.randn(copies, student.dimension, 1, dtype=torch.float64, generator=draw)
    first = student.start * torch.nn.functional.normalize(directions, dim=1)
    few = compressed(inputs, targets[..., None].expand(-1, -1, 2))
    training = ensemble.train(
        students(torch.cat([first, -first], 2)),
        half_squares,
        ensemble.SGD(student.rate),
        lambda step: few,
        max(steps[-1], 1),
        measure={"weights": learnt},
        every=steps,
    )
    seen = training.measured["weights"].values
    residual = torch.stack([(inputs @ now - targets[..., None]).square().mean((1, 2)) for now in seen])
    away = (seen - teacher.weights[:, None]).square().sum(2).mean(2)
    found = averaged(
        {
            "loss": residual / 2.0,
            "eval_loss": (away + student.noise) / 2.0,
            "weight_norm": seen.square().sum(2).mean(2),
            "teacher_overlap": (teacher.weights @ seen).mean(2),
        }
    )
    norm = np.sqrt(found.curves["weight_norm"])
    error = found.standard_errors["weight_norm"] / (2.0 * np.maximum(norm, 1e-12))
    return Simulation(
        {**found.curves, "weight_norm": norm},
        {**found.standard_errors, "weight_norm": error},
    )


def _start_law(student: LinearStudent, seen: Prediction) -> float:
    expected = {
        "loss": 0.5 * (1.0 + student.start**2 + student.noise),
        "eval_loss": 0.5 * (1.0 + student.start**2 + student.noise),
        "weight_norm": student.start,
        "teacher_overlap": 0.0,
    }
    return max(abs(float(seen[name][0]) - value) for name, value in expected.items())


def _descent_law(student: LinearStudent, seen: Prediction) -> float:
    return float(max(0.0, np.diff(seen["loss"]).max()))


def _frozen_law(student: LinearStudent, seen: Prediction) -> float:
    """How far the overlap is from its limit after so long that the smallest eigenvalue has decayed, if it can be."""
    gap = (1.0 - 1.0 / math.sqrt(student.alpha)) ** 2
    if gap < 1e-4:
        return 0.0
    late = curves(student, [math.ceil(40.0 / (student.rate * gap))])
    return max(
        abs(float(late["teacher_overlap"][0]) - (1.0 - frozen_share(student.alpha))),
        abs(float(late["eval_loss"][0]) / fitted_eval_loss(student) - 1.0),
    )


def _norm_law(student: LinearStudent, seen: Prediction) -> float:
    """|w - v|^2 = |w|^2 - 2 v.w + 1, whatever the course."""
    away = 2.0 * seen["eval_loss"] - student.noise
    return float(np.abs(seen["weight_norm"] ** 2 - 2.0 * seen["teacher_overlap"] + 1.0 - away).max())


def _ridge_law(student: LinearStudent, seen: Prediction) -> float:
    """By how much any stopped descent from small weights beats the best linear estimate."""
    best = ridge_eval_loss(student)
    return float(max(0.0, best - seen["eval_loss"].min()))


def _wrong(settings: Settings) -> dict[str, Any]:
    ratio = settings["examples_per_weight"]
    return {**settings, "examples_per_weight": ratio / 1.6 if ratio > 1.0 else ratio * 1.6}


THEORY = Theory(
    name="generalisation-dynamics",
    question="How does the test loss go over time, when is it best to stop, and how much does more data or width help?",
    assumptions=(
        "The student is linear in its weights and descends half the mean squared error with all examples at once.",
        "Inputs are independent and normal with one variance in all directions; the noise is independent of them.",
        "Examples and weights are both many.",
        "The first weights are random, or zero.",
    ),
    papers=(
        Paper(
            "High-dimensional dynamics of generalization error in neural networks",
            ("Madhu S. Advani", "Andrew M. Saxe"),
            2017,
            "https://arxiv.org/abs/1710.03667",
        ),
    ),
    settings=(
        Setting("dimension", "int", 100, "inputs and weights", 40, 160),
        Setting("examples_per_weight", "float", 1.0, "examples over dimension", 0.25, 4.0),
        Setting("signal_to_noise", "float", 2.0, "variance of the targets' signal over that of their noise", 0.5, 8.0),
        Setting("start", "float", 0.5, "norm of the first weights over that of the teacher's", 0.0, 2.0),
        Setting("rate", "float", 0.5, "learning rate over 1 / the largest eigenvalue", 0.2, 0.9),
    ),
    series=(
        SeriesSpec("loss", description="half the mean squared error on the examples"),
        SeriesSpec("eval_loss", description="half the mean squared error on fresh data"),
        SeriesSpec("weight_norm", description="root mean squared norm of the weights, over the teacher's"),
        SeriesSpec("teacher_overlap", description="weights times the teacher's, over the square of its norm"),
    ),
    problem=_problem,
    steps=_steps,
    predict=curves,
    simulate=_simulate,
    bands=(
        Band("loss", 0.01, "means over realisations differ from the limit by about 1 / N"),
        Band("eval_loss", 0.01, "means over realisations differ from the limit by about 1 / N, most at alpha = 1"),
        Band("weight_norm", 0.01, "means over realisations differ from the limit by about 1 / N, most at alpha = 1"),
        Band("teacher_overlap", 0.01, "means over realisations differ from the limit by about 1 / N"),
    ),
    laws=(
        Law("start", "at first both losses are half of signal, first weights and noise", _start_law),
        Law("descent", "the training loss never rises", _descent_law),
        Law("end", "at last a share 1 - alpha is frozen and the test loss is that of least squares", _frozen_law, 1e-8),
        Law("norm", "test loss, norm and overlap fit together as lengths do", _norm_law),
        Law("bound", "no stopped descent beats the best ridge regression", _ridge_law),
    ),
    wrong=_wrong,
    smoke={"dimension": 60},
)
