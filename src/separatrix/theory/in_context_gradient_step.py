"""In-context learning by linear attention whose value matrix reads labels: one step of gradient descent, learnt.

The layer predicts z'A x for the query x, where z = X'y / n is the gradient step at weights 0 on a prompt of n labelled
examples, and A is what its key-query matrix holds. The loss, half the mean squared error on the query's label, is
quadratic in A, and diagonal in the entries of A where covariates and weights have diagonal covariances:

    L(A) = (E y^2 - 2 sum_i c_i A_ii + sum_ij H_ij A_ij^2) / 2,   H_ij = E[z_i^2 x_j^2],  c_i = E[z_i x_i y].

Linear responses y = w.x + noise, x from N(0, diag(s)), w from N(0, diag(p)), the noise's variance v: by Wick's formula
E[z_i^2] = p_i s_i^2 (1 + 1/n) + s_i (sum_k p_k s_k + v) / n and c_i = p_i s_i^2, so that the optimum is
A_ii = p_i / (p_i s_i (1 + 1/n) + (sum_k p_k s_k + v) / n). For s = p = 1 this is n / (n + d + 1 + v): Theorem 1 of the
paper, which does not divide z by n. For p = 1/s it is the same number over s_i: Theorem 2. Without noise and for p = 1
it is the inverse of Gamma of Zhang, Frei and Bartlett.

Responses f(x) of whitened covariates whose law is that of f turned, and of -f (Theorem 3): with b = E[x f(x)] / d for
the mean square of an entry of E_x[x f(x)] and e = E[|x|^2 f(x)^2] / d, the optimum is
b / (b (1 - 1/n) + (e + v) / n), over s_i. Both are Gaussian integrals, closed for the responses of the task.

Gradient descent on A alone is linear: entry A_ij - (optimum)_ij shrinks by 1 - rate H_ij at every step. The paper has
the optimum only; where the value matrix learns as well, see `in_context_regression`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from separatrix.runs.types import SeriesSpec
from separatrix.tasks.in_context_regression import InContextRegression, Response
from separatrix.theory._averages import jackknifed
from separatrix.theory._prompt_training import Objective, descended, objective
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
    TheoryError,
)

_COPIES = 20
_NUMBERS = 600_000  # drawn for the prompts of each copy
_RECORDED = 24
_LONGER = 2


@dataclasses.dataclass(frozen=True)
class Moments:
    """The loss of a step A: (power - 2 sum_i cross_i A_ii + sum_ij curvature_ij A_ij^2) / 2."""

    curvature: Float[ndarray, "dimension dimension"]
    cross: Float[ndarray, " dimension"]
    power: float

    @property
    def optimum(self) -> Float[ndarray, "dimension dimension"]:
        """The best A, which is diagonal."""
        return np.diag(self.cross / self.curvature.diagonal())

    def loss(self, step: Float[ndarray, "*steps dimension dimension"]) -> Float[ndarray, "*steps"]:
        """Half the mean squared error on the query's label, its noise included."""
        linear = np.einsum("i,...ii->...", self.cross, step)
        return np.asarray(0.5 * (self.power - 2 * linear + (self.curvature * step**2).sum((-2, -1))))

    @property
    def least_loss(self) -> float:
        """The loss of the best A."""
        return float(0.5 * (self.power - (self.cross**2 / self.curvature.diagonal()).sum()))


def moments(task: InContextRegression) -> Moments:
    """The moments of a task's prompts, exactly.

    Raises:
        TheoryError: responses are not linear and depend on other covariates than whitened ones.
    """
    return _linear_moments(task) if task.response == "linear" else _whitened_moments(task)


def _linear_moments(task: InContextRegression) -> Moments:
    """Third moments of the variances over prompts; where those are fixed, plain products."""
    one = np.eye(task.dimension)
    random = float(task.covariance == "exponential")
    s, p = (values.double().numpy() for values in (task.spectrum, task.prior))
    pair = np.multiply.outer(s, s) * (1 + random * one)
    same = one[:, :, None] + one[:, None, :] + one[None, :, :]
    triple = np.multiply.outer(np.multiply.outer(s, s), s)
    triple = triple * (1 + random * (same + 2 * one[:, :, None] * one[:, None, :]))
    own = np.einsum("iij->ij", triple)
    noise = task.noise**2
    curvature = (1 + 1 / task.length) * p[:, None] * own + (triple @ p + noise * pair) / task.length
    scale = task.query_scale**2
    return Moments(scale * curvature, scale * p * pair.diagonal(), scale * float(p @ s) + noise)


def _whitened_moments(task: InContextRegression) -> Moments:
    s, p = (values.double().numpy() for values in (task.spectrum, task.prior))
    if not np.allclose(s * p, s[0] * p[0]) or task.covariance != "fixed" or task.query_scale != 1.0:
        raise TheoryError(
            f"moments of {task.response} responses are known for whitened covariates only: give task_decay=-decay,"
            " fixed covariances and query_scale=1"
        )
    signal, energy, power = response_moments(task.response, float(s[0] * p[0]), task.dimension)
    square = signal * (1 - 1 / task.length) + (energy + task.noise**2) / task.length
    return Moments(square * np.multiply.outer(s, s), signal * s, power + task.noise**2)


def response_moments(response: Response, variance: float, dimension: int) -> tuple[float, float, float]:
    """|E_x[x f(x)]|^2 / d, E[|x|^2 f(x)^2] / d and E f(x)^2 for x from N(0, 1), weights from N(0, variance)."""
    r, d = variance, dimension
    if response == "linear":
        return r, r * (d + 2), r * d
    if response == "sign":
        return 2 / (math.pi * d), 1.0, 1.0
    if response == "relu_network":
        return r / 4, r * (d + 2) / 2, r * d / 2
    damped = (1 + 4 * r) ** (-d / 2)
    energy = (1 - damped + 4 * r * damped / (1 + 4 * r)) / 2
    return r * (1 + 2 * r) ** (-d / 2 - 1), energy, (1 - damped) / 2


def gradient_step(length: int, dimension: int, noise: float, weight_variance: float = 1.0) -> float:
    """The best step on the mean loss of a prompt, for covariates from N(0, 1) and linear responses."""
    return length / (length + dimension + 1 + noise**2 / weight_variance)


@dataclasses.dataclass(frozen=True)
class _Problem:
    task: InContextRegression
    start: Floats
    rate: float
    total: int

    @property
    def moments(self) -> Moments:
        return moments(self.task)


def _problem(settings: Settings, seed: int) -> _Problem:
    d, name, decay = settings["dimension"], settings["responses"], settings["decay"]
    linear = name.startswith("linear")
    task = InContextRegression(
        dimension=d,
        length=settings["length"],
        decay=decay,
        task_decay=0.0 if name == "linear" else -decay,
        noise=settings["noise"] * (1.0 if linear else 0.5),
        response="linear" if linear else name,
        units=4,
        task_scale=1.0 if linear else d**-0.5,
        dtype=torch.float64,
    )
    seen = moments(task)
    draws = np.random.default_rng(seed).standard_normal((d, d)) / math.sqrt(d)
    rate = settings["learning_rate"] / float(seen.curvature.max())
    slowest = rate * float(seen.curvature.min())
    return _Problem(task, settings["initial_scale"] * draws, rate, min(240, math.ceil(4 / slowest)))


def _steps(problem: _Problem) -> list[int]:
    return sorted({round(problem.total * (share / _RECORDED) ** 1.5) for share in range(_RECORDED + 1)})


def _learnt(problem: _Problem, steps: Sequence[int]) -> Floats:
    """The step matrix after each of `steps`, (steps, dimension, dimension)."""
    seen = problem.moments
    kept = (1 - problem.rate * seen.curvature) ** np.asarray(steps, dtype=np.float64)[:, None, None]
    return np.asarray(seen.optimum + kept * (problem.start - seen.optimum))


def _longer(task: InContextRegression) -> InContextRegression:
    return dataclasses.replace(task, length=_LONGER * task.length)


def _predict(problem: _Problem, steps: Sequence[int]) -> Curves:
    learnt = _learnt(problem, steps)
    return {
        "loss": problem.moments.loss(learnt),
        "eval_loss": moments(_longer(problem.task)).loss(learnt),
        "mode_strength": np.einsum("kii->ki", learnt),
    }


def _simulate(problem: _Problem, steps: Sequence[int], seed: int) -> Simulation:
    """Full-batch training on many prompts, tested on others; each copy goes without its own share of them."""
    task, generator = dataclasses.replace(problem.task, dtype=torch.float32), torch.Generator().manual_seed(seed)

    def many(task: InContextRegression) -> Objective:
        size = (task.length + 1) * (task.dimension + 1 + task.units * (task.response == "relu_network"))
        return objective(task, _COPIES, _NUMBERS // size, generator).leaving_out()

    training, tests = many(task), {"loss": many(task), "eval_loss": many(_longer(task))}
    start = torch.from_numpy(problem.start).expand(_COPIES, -1, -1)
    learnt = descended((start,), training, problem.rate, steps)
    seen = {name: torch.stack([test.losses(step) for step in learnt]) for name, test in tests.items()}
    return jackknifed(seen | {"mode_strength": learnt.diagonal(dim1=2, dim2=3)})


def _wrong(settings: Settings) -> Settings:
    return {**settings, "length": 40 if settings["length"] < 14 else 5}


def _one_step(problem: _Problem, prediction: Prediction) -> float:
    """Distance of the last learnt step from gradient descent as the papers have it, relative."""
    task, last = problem.task, _predict(problem, [10**9])["mode_strength"][0]
    s = task.spectrum.double().numpy()
    if task.response == "linear" and task.task_decay == 0.0:
        expected = 1 / ((1 + 1 / task.length) * s + (s.sum() + task.noise**2) / task.length)
    elif task.response == "linear":
        expected = gradient_step(task.length, task.dimension, task.noise) / s
    else:
        expected = np.full(task.dimension, last[0] * s[0]) / s
    return float(np.abs(last / expected - 1).max())


def _rise(problem: _Problem, prediction: Prediction) -> float:
    return max(float(np.diff(prediction["loss"]).max()) / problem.moments.power, 0.0)


def _excess(problem: _Problem, prediction: Prediction) -> float:
    """Distance of the loss from the least one and what the curvature adds for being elsewhere, relative."""
    seen = problem.moments
    away = _learnt(problem, prediction.steps.tolist()) - seen.optimum
    expected = seen.least_loss + 0.5 * (seen.curvature * away**2).sum((-2, -1))
    return float(np.abs(prediction["loss"] / expected - 1).max())


def _long_prompts(problem: _Problem, prediction: Prediction) -> float:
    """Distance of the best step on endless prompts from the inverse of the covariance, relative."""
    endless = moments(dataclasses.replace(problem.task, length=10**12)).optimum.diagonal()
    return float(np.abs(endless * problem.task.spectrum.double().numpy() - 1).max())


_FINITE = "P prompts move the optimum by about dimension^2 / P, and standard errors of twenty copies scatter themselves"

THEORY = Theory(
    name="in-context-gradient-step",
    question="Which step of gradient descent does linear attention learn to take in context, and how fast?",
    assumptions=(
        "One layer of linear self-attention; its value matrix reads labels and stays, its key-query matrix learns.",
        "Covariates are Gaussian; responses are linear, or any function of whitened covariates whose law is that of"
        " the function turned and of its negative.",
        "Plain gradient descent on the mean squared error of the query, on many more prompts than A has entries.",
    ),
    papers=(
        Paper(
            title="One Step of Gradient Descent is Provably the Optimal In-Context Learner with One Layer of Linear"
            " Self-Attention",
            authors=("Arvind Mahankali", "Tatsunori B. Hashimoto", "Tengyu Ma"),
            year=2023,
            url="https://arxiv.org/abs/2307.03576",
        ),
    ),
    settings=(
        Setting(
            "responses",
            "str",
            "linear",
            "linear with weights of equal variances, or of variances inverse to those of the covariates; or the sign,"
            " sine or a random ReLU network of whitened covariates",
            choices=("linear", "linear-whitened", "sign", "sine", "relu_network"),
        ),
        Setting("dimension", "int", 5, "covariates", 2, 8),
        Setting("length", "int", 20, "labelled examples of a prompt", 5, 40),
        Setting("decay", "float", 0.3, "variance of covariate i is i^-decay", 0.0, 0.5),
        Setting("noise", "float", 0.5, "standard deviation of the labels' noise; half of it if not linear", 0.0, 1.0),
        Setting("learning_rate", "float", 0.1, "over 1 / largest curvature", 0.05, 0.2),
        Setting("initial_scale", "float", 0.5, "of the key-query matrix at the start", 0.1, 1.0),
    ),
    series=(
        SeriesSpec("loss", description="half the mean squared error on the query's label"),
        SeriesSpec("eval_loss", description="the same on prompts of twice as many examples"),
        SeriesSpec("mode_strength", ("mode",), description="step that the layer takes along each covariate"),
    ),
    problem=_problem,
    steps=_steps,
    predict=_predict,
    simulate=_simulate,
    bands=(
        Band("loss", 0.01, _FINITE),
        Band("eval_loss", 0.01, _FINITE),
        Band("mode_strength", 0.01, _FINITE),
    ),
    laws=(
        Law("one-step", "in the end the layer takes the papers' step of gradient descent", _one_step),
        Law("descent", "the loss never rises", _rise, 1e-12),
        Law("excess", "the loss is the least one and a quadratic form of the distance from the best step", _excess),
        Law("long-prompts", "on endless prompts the best step is the inverse of the covariance", _long_prompts, 1e-6),
    ),
    wrong=_wrong,
    smoke={"dimension": 3, "length": 10},
)
