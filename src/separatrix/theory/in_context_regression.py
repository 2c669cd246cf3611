"""In-context linear regression by one layer of linear attention: how gradient flow finds its global minimum.

From the paper's start (its Assumption 3.3: value matrix 0 but for its last entry v, key-query matrix 0 but for a block
U, |U| = v) the other entries of both matrices have no gradient, because labels are odd in the weights of the task. The
layer predicts z'(v U) x for the query x, z the mean of y_i x_i over the prompt, and in the basis of the covariance the
loss has the moments H and c of `in_context_gradient_step`:

    L = (E y^2 - 2 v sum_i c_i U_ii + v^2 sum_ij H_ij U_ij^2) / 2.

Hence, under gradient flow,

    U_ij' = -v^2 H_ij U_ij + v c_i [i = j],    v' = sum_i c_i U_ii - v sum_ij H_ij U_ij^2,

(the paper's Lemma 5.2 in that basis). Off the diagonal U_ij = U_ij(0) exp(-H_ij s), s the integral of v^2, so that
d + 2 numbers remain; v^2 - |U|^2 is conserved, and 0. The limit is v U = diag(c_i / H_ii), v^4 = |v U|^2: for
covariances fixed to Lambda and weights from N(0, 1) this is the inverse of Gamma = (1 + 1/n) Lambda + tr(Lambda) / n
(Theorem 4.1), of loss (tr Lambda - tr Lambda^2 Gamma^-1) / 2. Where variances are drawn for each prompt, H and c are
means over them (Section 4.3).

With equal variances, U = u 1 and v = u sqrt(d), p = v u obeys p' = 2 sqrt(d) p (c - H p): a logistic curve.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.integrate import solve_ivp

from separatrix.runs.types import SeriesSpec
from separatrix.tasks.in_context_regression import COVARIANCES, InContextRegression
from separatrix.theory._averages import jackknifed
from separatrix.theory._prompt_training import Objective, descended, objective
from separatrix.theory.in_context_gradient_step import Moments, moments
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

_COPIES = 20
_NUMBERS = 600_000  # drawn for the prompts of each copy
_RECORDED = 40
_LONGEST = 1600


@dataclasses.dataclass(frozen=True)
class Layer:
    """The two parts that learn: v, which multiplies labels, and U, between covariates and query; `times` lead."""

    value: Float[ndarray, " times"]
    key_query: Float[ndarray, "times dimension dimension"]

    @property
    def step(self) -> Float[ndarray, "times dimension dimension"]:
        """The matrix v U of the step of gradient descent that the layer takes."""
        return np.asarray(self.value[:, None, None] * self.key_query)


def optimum(seen: Moments) -> tuple[float, Floats]:
    """The global minimum that is reached, v and U (dimension, dimension): the one with v^2 = |U|^2."""
    value = math.sqrt(float(np.linalg.norm(seen.optimum)))
    return value, seen.optimum / value


def largest_curvature(seen: Moments) -> float:
    """Largest eigenvalue of the Hessian of the loss in U and v at that minimum."""
    value, key_query = optimum(seen)
    d = len(seen.cross)
    hessian = np.zeros((d + 1, d + 1))
    hessian[:d, :d] = np.diag(value**2 * seen.curvature.diagonal())
    hessian[:d, d] = hessian[d, :d] = seen.cross
    hessian[d, d] = (seen.curvature * key_query**2).sum()
    return max(float(np.linalg.eigvalsh(hessian)[-1]), value**2 * float(seen.curvature.max()))


def flow(
    seen: Moments,
    value: float,
    key_query: Float[ndarray, "dimension dimension"],
    times: Float[ndarray, " times"],
    horizon: float = 1.0,
) -> Layer:
    """The layer under gradient flow from v and U, at ascending times; integrated up to `horizon` at least."""
    d, off = len(seen.cross), ~np.eye(len(seen.cross), dtype=bool)
    diagonal, first, rates = seen.curvature.diagonal(), key_query[off], seen.curvature[off]

    def velocity(time: float, state: Floats) -> Floats:
        u, v, elapsed = state[:d], state[d], state[d + 1]
        others = (rates * (first * np.exp(-rates * elapsed)) ** 2).sum()
        moved = v * (seen.cross - v * diagonal * u)
        return np.concatenate([moved, [seen.cross @ u - v * (diagonal @ u**2 + others), v**2]])

    start = np.concatenate([key_query.diagonal(), [value, 0.0]])
    horizon = max(horizon, float(times[-1]))
    path = solve_ivp(velocity, (0.0, horizon), start, method="DOP853", dense_output=True, rtol=1e-10, atol=1e-13)
    states = path.sol(times)
    matrices = np.zeros((len(times), d, d))
    matrices[:, off] = first * np.exp(-rates * states[d + 1][:, None])
    matrices[:, ~off] = states[:d].T
    return Layer(states[d], matrices)


def isotropic_strength(seen: Moments, start: float, times: Float[ndarray, " times"]) -> Float[ndarray, " times"]:
    """The logistic curve of v U_ii under gradient flow from v U = start 1, for v^2 = |U|^2 and equal variances."""
    c, end = float(seen.cross[0]), float(seen.optimum[0, 0])
    rate = 2 * c * math.sqrt(len(seen.cross))
    return np.asarray(end / (1 + (end / start - 1) * np.exp(-rate * times)))


@dataclasses.dataclass(frozen=True)
class _Problem:
    task: InContextRegression
    shifted: InContextRegression
    start: Floats
    rate: float
    total: int

    @property
    def moments(self) -> Moments:
        return moments(self.task)

    @property
    def scale(self) -> float:
        """Of the start: v, and the norm of U."""
        return float(np.linalg.norm(self.start))


def _problem(settings: Settings, seed: int) -> _Problem:
    d, scale = settings["dimension"], settings["initial_scale"]
    task = InContextRegression(
        dimension=d,
        length=settings["length"],
        decay=settings["decay"],
        covariance=settings["covariance"],
        dtype=torch.float64,
    )
    seen = moments(task)
    half = np.random.default_rng(seed).standard_normal((d, d))
    start = scale * half @ half.T / np.linalg.norm(half @ half.T)
    rate = settings["learning_rate"] / largest_curvature(seen)
    value, _ = optimum(seen)
    escape = math.log(max(value / scale, 2.0)) / float(np.linalg.norm(seen.cross))
    settling = 3 / (value**2 * float(seen.curvature.diagonal().min()))
    total = min(_LONGEST, math.ceil((1.5 * escape + settling) / rate))
    return _Problem(task, dataclasses.replace(task, covariate_scale=settings["covariate_shift"]), start, rate, total)


def _steps(problem: _Problem) -> list[int]:
    return sorted({round(problem.total * (share / _RECORDED) ** 1.5) for share in range(_RECORDED + 1)})


def _layer(problem: _Problem, steps: Sequence[int]) -> Layer:
    times = problem.rate * np.asarray(steps, dtype=np.float64)
    return flow(problem.moments, problem.scale, problem.start, times, problem.rate * problem.total)


def _predict(problem: _Problem, steps: Sequence[int]) -> Curves:
    learnt = _layer(problem, steps).step
    return {
        "loss": problem.moments.loss(learnt),
        "eval_loss": moments(problem.shifted).loss(learnt),
        "mode_strength": np.einsum("kii->ki", learnt),
    }


def _simulate(problem: _Problem, steps: Sequence[int], seed: int) -> Simulation:
    """Full-batch training on many prompts, tested on others; each copy goes without its own share of them."""
    generator = torch.Generator().manual_seed(seed)

    def many(task: InContextRegression) -> Objective:
        drawn = dataclasses.replace(task, dtype=torch.float32)
        return objective(drawn, _COPIES, _NUMBERS // (task.length + 1) // (task.dimension + 1), generator).leaving_out()

    training, tests = many(problem.task), {"loss": many(problem.task), "eval_loss": many(problem.shifted)}

    value = torch.full((_COPIES, 1, 1), problem.scale, dtype=torch.float64)
    key_query = torch.from_numpy(problem.start).expand(_COPIES, -1, -1)
    learnt = descended((value, key_query), training, problem.rate, steps)
    seen = {name: torch.stack([test.losses(step) for step in learnt]) for name, test in tests.items()}
    return jackknifed(seen | {"mode_strength": learnt.diagonal(dim1=2, dim2=3)})


def _wrong(settings: Settings) -> Settings:
    return {**settings, "length": 40 if settings["length"] < 14 else 5}


def _start(problem: _Problem, prediction: Prediction) -> float:
    """Distance of the first loss from that of the start, computed in full matrices."""
    seen, step = problem.moments, problem.scale * problem.start
    expected = 0.5 * (seen.power - 2 * np.trace(np.diag(seen.cross) @ step) + np.trace(seen.curvature @ (step**2).T))
    return abs(float(prediction["loss"][0]) / float(expected) - 1)


def _balance(problem: _Problem, prediction: Prediction) -> float:
    layer = _layer(problem, prediction.steps.tolist())
    squares = (layer.key_query**2).sum((1, 2))
    return float(np.abs(layer.value**2 - squares).max() / squares.max())


def _descent(problem: _Problem, prediction: Prediction) -> float:
    return max(float(np.diff(prediction["loss"]).max()) / problem.moments.power, 0.0)


def _late(problem: _Problem) -> int:
    """A step by which what is left of the slowest mode is e^-25 of its start, whatever `total` is."""
    seen = problem.moments
    value, _ = optimum(seen)
    escape = math.log(max(value / problem.scale, 2.0)) / float(np.linalg.norm(seen.cross))
    return math.ceil((4 * escape + 25 / (value**2 * float(seen.curvature.min()))) / problem.rate)


def _inverse(problem: _Problem, prediction: Prediction) -> float:
    """Distance of the limit of v U from the inverse of Gamma, relative."""
    s, n = problem.task.spectrum.numpy(), problem.task.length
    if problem.task.covariance == "fixed":
        expected = 1 / ((1 + 1 / n) * s + s.sum() / n)
    else:
        expected = 2 / (6 * (1 + 1 / n) * s + (4 * s + 2 * s.sum()) / n)
    last = _layer(problem, [_late(problem)])
    return float(np.linalg.norm(last.step[0] - np.diag(expected)) / np.linalg.norm(expected))


def _split(problem: _Problem, prediction: Prediction) -> float:
    """Distance of the limit of v from the root of |v U|, relative."""
    last = _layer(problem, [_late(problem)])
    return abs(float(last.value[0]) / math.sqrt(float(np.linalg.norm(problem.moments.optimum))) - 1)


_FINITE = (
    "flow is what gradient descent becomes for small rates, and 10^5 prompts what the population becomes; standard"
    " errors of twenty copies scatter themselves"
)

THEORY = Theory(
    name="in-context-regression",
    question="When does linear attention learn to regress in context, and what does it then predict?",
    assumptions=(
        "One layer of linear self-attention, whose value matrix starts by reading labels and whose key-query matrix"
        " starts as a positive matrix between covariates, both of one small norm.",
        "Gaussian covariates, labels linear in them without noise, weights of each prompt from N(0, 1).",
        "Full-batch gradient descent at a small rate on the mean squared error of the query, on many more prompts than"
        " the layer has parameters.",
    ),
    papers=(
        Paper(
            title="Trained Transformers Learn Linear Models In-Context",
            authors=("Ruiqi Zhang", "Spencer Frei", "Peter L. Bartlett"),
            year=2023,
            url="https://arxiv.org/abs/2306.09927",
        ),
    ),
    settings=(
        Setting("dimension", "int", 5, "covariates", 2, 8),
        Setting("length", "int", 20, "labelled examples of a prompt", 5, 40),
        Setting("decay", "float", 0.3, "variance of covariate i is i^-decay", 0.0, 0.5),
        Setting(
            "covariance",
            "str",
            "fixed",
            "or each prompt multiplies each variance by an exponential draw of mean 1",
            choices=COVARIANCES,
        ),
        Setting("covariate_shift", "float", 1.5, "factor on all covariates of the evaluation", 0.5, 2.0),
        Setting("initial_scale", "float", 0.2, "of the value matrix, and norm of the key-query matrix", 0.1, 0.4),
        Setting("learning_rate", "float", 0.02, "over 1 / largest curvature at the minimum", 0.01, 0.04),
    ),
    series=(
        SeriesSpec("loss", description="half the mean squared error on the query's label"),
        SeriesSpec("eval_loss", description="the same on prompts of scaled covariates"),
        SeriesSpec("mode_strength", ("mode",), description="step of the layer along each covariate"),
    ),
    problem=_problem,
    steps=_steps,
    predict=_predict,
    simulate=_simulate,
    bands=(Band("loss", 0.01, _FINITE), Band("eval_loss", 0.02, _FINITE), Band("mode_strength", 0.02, _FINITE)),
    laws=(
        Law("start", "the first loss is that of the start", _start),
        Law("balance", "the square of v stays the squared norm of U", _balance, 1e-7),
        Law("descent", "the loss never rises", _descent, 1e-9),
        Law("inverse", "v U ends at the inverse of Gamma, or what replaces it for random covariances", _inverse, 1e-5),
        Law("split", "the square of v ends at the norm of v U", _split, 1e-5),
    ),
    wrong=_wrong,
    smoke={"dimension": 3, "length": 10},
)
