"""Linear attention trained on regression prompts: where it ends, and which shifts of the prompts that survives.

The layer (value and key-query matrix whole) starts at the paper's small start and descends on fresh prompts without
noise. Weights are N(0, 1 / tr Lambda) rather than N(0, 1), so that labels have variance 1 at every dimension: that
scales every loss and leaves the minimum where it is. A layer's relative error is its loss over that of answering 0.

Scaling all covariates by c multiplies what the loss has of degree 0, 1 and 2 in A by c^2, c^4 and c^6. At any minimum,
with 1 - k the relative error there, that of scaled prompts is hence 1 + k c^2 (c^2 - 2): beyond c = sqrt(2) the layer
is worse than answering 0, whatever covariances it was trained on. A scale of weights or of queries cancels. Where the
variances of each prompt have exponential factors e, a layer trained at any length keeps on endless prompts a relative
error of 1 - 4 u + 6 u^2 >= 1/3 if A = u 1: E e = 1, E e^2 = 2 and E e^3 = 6.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from separatrix.studies._linear_attention import Layer, descended, small_start
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
from separatrix.tasks import InContextRegression
from separatrix.theory.in_context_gradient_step import moments
from separatrix.theory.in_context_regression import optimum

_SCALE = 0.2  # of the start
_BEFORE, _OVER = 80, 60  # steps over the dimension: until the layer is averaged, and while it is
_LONGER, _LONGEST = 4, 8
_PRECISE = 4  # times the prompts, for losses that are compared closely
_CHUNK = 2000


@dataclasses.dataclass(frozen=True)
class _Effort:
    """How much is drawn: prompts to train on for each unit of error in them, and prompts of each test."""

    training: float
    test: int

    @property
    def precise(self) -> _Effort:
        """For losses that are compared closely."""
        return dataclasses.replace(self, test=_PRECISE * self.test)


def _unit(task: InContextRegression) -> InContextRegression:
    """The task with weights so scaled that labels have variance 1."""
    return dataclasses.replace(task, task_scale=float(task.spectrum.sum()) ** -0.5)


def _trained(task: InContextRegression, effort: _Effort, generator: torch.Generator) -> Layer:
    """Rates are shares of 1 / curvature of the stiffest direction, which grows like the root of the dimension.

    Of P prompts, dimension x relative error / P remains of the squared error of A, relative: so many are drawn.
    """
    d, n = task.dimension, task.length
    wanted = max(20.0, d * d * (d + 1) / (n + d + 1)) * effort.training
    random = task.covariance != "fixed"
    rate = (0.1 if random else 0.25) / math.sqrt(d)
    start = small_start(d, _SCALE, generator)
    return descended(start, task.sample, rate, math.ceil(wanted / (_OVER * d)), (_BEFORE * d, _OVER * d), generator)


def _errors(layer: Layer, task: InContextRegression, effort: _Effort, generator: torch.Generator) -> Tensor:
    """Half the mean squared error of the layer on fresh prompts, and of answering 0."""
    total = torch.zeros(2, dtype=torch.float64)
    for first in range(0, effort.test, _CHUNK):
        tokens, targets = task.sample(min(_CHUNK, effort.test - first), generator)
        residual = layer.predictions(tokens) - targets
        total += torch.stack([residual.double().square().sum(), targets.double().square().sum()])
    return total / effort.test / 2


def _relative(layer: Layer, task: InContextRegression, effort: _Effort, generator: torch.Generator) -> float:
    loss, power = _errors(layer, task, effort, generator).tolist()
    return float(loss / power)


def _exact(task: InContextRegression, layer_of: InContextRegression) -> tuple[float, float]:
    """Loss on prompts of `task`, and that of answering 0, of the layer that is optimal for `layer_of`."""
    seen = moments(dataclasses.replace(task, dtype=torch.float64))
    best = moments(dataclasses.replace(layer_of, dtype=torch.float64)).optimum
    return float(seen.loss(best)), 0.5 * seen.power


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def _distances(layer: Layer, task: InContextRegression) -> list[float]:
    """Relative distances from the closed form: of the product of both matrices, of W_KQ and of W_PV."""
    seen = moments(dataclasses.replace(task, dtype=torch.float64))
    value, key_query = optimum(seen)
    below = torch.zeros(1, task.dimension, dtype=torch.float64)
    last = torch.cat([below[0], torch.tensor([value], dtype=torch.float64)])
    return [
        _distance(layer.step, torch.from_numpy(seen.optimum)),
        _distance(layer.key_query, torch.cat([torch.from_numpy(key_query), below])),
        _distance(layer.value, last),
    ]


def _plan(settings: Settings, quick: bool) -> Plan:
    d, n = settings["dimension"], settings["length"]
    prompts = 3e4 * max(10.0, d * d * (d + 1) / (n + d + 1))
    return Plan(runs=3, seconds=(2.0 + 2e-8 * prompts * n * d) * (1 if quick else 4))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    effort = _Effort(training=1.2e4, test=16_000) if quick else _Effort(training=4e4, test=64_000)
    fixed = _unit(
        InContextRegression(dimension=settings["dimension"], length=settings["length"], decay=settings["decay"])
    )
    random = dataclasses.replace(fixed, covariance="exponential")
    shift = settings["shift"]

    layer = _trained(fixed, effort, generator)
    progress()
    other = _trained(random, effort, generator)
    progress()

    tasks = dataclasses.replace(fixed, task_decay=1.0, task_scale=shift)
    queries = dataclasses.replace(fixed, query_scale=shift)
    covariates = dataclasses.replace(fixed, covariate_scale=shift)
    longer = dataclasses.replace(fixed, length=_LONGER * fixed.length)
    home = _errors(layer, fixed, effort.precise, generator).tolist()
    shifted = {task: _errors(layer, task, effort, generator).tolist() for task in (tasks, queries, longer, covariates)}
    relative = {task: loss / power for task, (loss, power) in shifted.items()}
    at_home = home[0] / home[1]

    def endless(layer: Layer, task: InContextRegression) -> float:
        return _relative(layer, dataclasses.replace(task, length=_LONGEST * task.length), effort, generator)

    random_queries = dataclasses.replace(random, query_scale=shift)
    random_covariates = dataclasses.replace(random, covariate_scale=shift)
    start = small_start(fixed.dimension, _SCALE, generator)
    least, _ = _exact(random, random)
    random_loss = _errors(other, random, effort.precise, generator).tolist()[0]
    seen = moments(dataclasses.replace(fixed, dtype=torch.float64))
    inverse = torch.diag(1 / fixed.spectrum.double())
    outcome = Outcome(
        measured={
            "global_minimum": _distances(layer, fixed),
            "loss": home[0] / _exact(fixed, fixed)[0],
            "shifted_loss": [shifted[task][0] / _exact(task, fixed)[0] for task in (tasks, queries, longer)],
            "shifts_survived": [relative[task] / at_home for task in (tasks, queries)],
            "covariate_shift_breaks": [
                relative[covariates],
                _relative(other, random_covariates, effort, generator),
            ],
            "random_minimum": _distances(other, random)[0],
            "random_loss": random_loss / least,
            "random_stays_wrong": endless(other, random),
        },
        controls={
            "start": _distances(start, fixed),
            "inverse_covariance": _distance(layer.step, inverse),
            "untrained_loss": _errors(start, fixed, effort, generator).tolist()[0] / seen.least_loss,
            "covariates_shifted": relative[covariates] / at_home,
            "queries_shifted": [relative[queries], _relative(other, random_queries, effort, generator)],
            "fixed_covariance": _distances(other, fixed)[0],
            "fixed_on_long_prompts": endless(layer, fixed),
        },
        series={"step": layer.step.diagonal().tolist(), "random_step": other.step.diagonal().tolist()},
    )
    progress()
    return outcome


study = Study(
    id="50",
    slug="in-context-regression",
    paper=Paper(
        title="Trained Transformers Learn Linear Models In-Context",
        authors=("Ruiqi Zhang", "Spencer Frei", "Peter L. Bartlett"),
        year=2023,
        url="https://arxiv.org/abs/2306.09927",
    ),
    summary="Linear attention ends at the closed-form minimum; scaled covariates break it, other shifts do not.",
    settings=(
        Setting("dimension", "int", 5, "covariates", 3, 12),
        Setting("length", "int", 20, "labelled examples of a training prompt", 20, 80),
        Setting("decay", "float", 0.1, "variance of covariate i is i^-decay", 0.0, 0.2),
        Setting("shift", "float", 2.0, "factor on queries, weights or all covariates when tested", 1.6, 6.4),
    ),
    statements=(
        Statement(
            "global_minimum",
            "at_most",
            0.02,
            "Relative distance from the closed form: of the product of both matrices, of W_KQ and of W_PV.",
        ),
        Statement("loss", "equal", 1.0, "Loss on fresh prompts over the least one by formula.", tolerance=0.05),
        Statement(
            "shifted_loss",
            "equal",
            1.0,
            "Loss over that by formula: weights of another spectrum and scale, scaled queries, prompts 4 times longer.",
            tolerance=0.1,
        ),
        Statement(
            "shifts_survived",
            "at_most",
            1.25,
            "Relative error over that without a shift: weights of another spectrum and scale, and scaled queries.",
        ),
        Statement(
            "covariate_shift_breaks",
            "at_least",
            1.0,
            "Relative error once all covariates are scaled: trained on fixed covariances, and on random ones.",
        ),
        Statement(
            "random_minimum",
            "at_most",
            0.1,
            "Relative distance of the product of both matrices from the closed form for random covariances.",
        ),
        Statement(
            "random_loss", "equal", 1.0, "Loss over the least one by formula, random covariances.", tolerance=0.1
        ),
        Statement(
            "random_stays_wrong",
            "at_least",
            0.3,
            "Relative error of the layer trained on random covariances, on such prompts 8 times longer; 1/3 or more.",
        ),
    ),
    controls=(
        Control("start", "global_minimum", "The layer before training."),
        Control("inverse_covariance", "global_minimum", "The inverse covariance, best for endless prompts, instead."),
        Control("untrained_loss", "loss", "The layer before training."),
        Control("covariates_shifted", "shifts_survived", "All covariates are scaled instead."),
        Control("queries_shifted", "covariate_shift_breaks", "The query alone is scaled instead."),
        Control("fixed_covariance", "random_minimum", "The closed form for covariances fixed at their mean."),
        Control("fixed_on_long_prompts", "random_stays_wrong", "Trained and tested on fixed covariances."),
    ),
    plan=_plan,
    run=_run,
    smoke={"dimension": 3},
)
