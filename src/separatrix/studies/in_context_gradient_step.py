"""Linear attention trained on noisy regression prompts takes one step of gradient descent, of a known size.

Weights are so scaled that labels have variance 1 without their noise; the closed form n / (n + d + 1 + v / t) has v and
t, the variances of the noise and of a weight, as a ratio only. The paper divides no step by n and finds its optimum as
a ratio of expectations; here both are evaluated. The layer is whole and trains by stochastic gradient descent, so that
reading anything but labels would be learnt if it helped.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import torch
from torch import Tensor

from separatrix.studies._linear_attention import Layer, descended, gradient_step, small_start
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
from separatrix.tasks import Batch, InContextRegression
from separatrix.theory import in_context_gradient_step as theory

_START = 0.2
_BEFORE, _BEFORE_ISOTROPIC, _OVER = 120, 90, 60  # steps over the dimension: until the layer is averaged, and while
_TEST = 40_000
_CHUNK = 2000
_RESPONSES = ("sign", "sine", "relu_network")


def _optimal(task: InContextRegression) -> theory.Moments:
    return theory.moments(dataclasses.replace(task, dtype=torch.float64))


def _best(task: InContextRegression) -> Tensor:
    return torch.from_numpy(_optimal(task).optimum)


def _shuffled(task: InContextRegression, n: int, generator: torch.Generator) -> Batch:
    """Prompts whose labels are those of the next prompt, while the query's stays."""
    tokens, targets = task.sample(n, generator)
    tokens[:, :, -1] = tokens[:, :, -1].roll(1, 0)
    return Batch(tokens, targets)


def _trained(task: InContextRegression, effort: float, generator: torch.Generator, shuffle: bool = False) -> Layer:
    """The layer after training on as many prompts as leave much the same error, relative, in A.

    Of P prompts about d^2 x relative loss / (step P) remains of its square. The rate is a share of 1 / curvature of the
    stiffest direction, the layer's reading of squared labels: that grows like the root of d, and the labels' variance
    squared, which is well below 1 for the sine.
    """
    d, seen = task.dimension, _optimal(task)
    size = float(seen.optimum.diagonal().mean())
    wanted = effort * max(60.0, d * d * 2 * seen.least_loss / seen.power / size)
    before = _BEFORE if task.decay else _BEFORE_ISOTROPIC
    sample = functools.partial(_shuffled, task) if shuffle else task.sample
    start, rate = small_start(d, _START, generator), 0.2 / math.sqrt(d) / min(1.0, seen.power) ** 2
    return descended(start, sample, rate, math.ceil(wanted / (_OVER * d)), (before * d, _OVER * d), generator)


def _compared(layer: Layer, task: InContextRegression, prompts: int, generator: torch.Generator) -> tuple[float, float]:
    """Loss of the layer on fresh prompts over the least one; rms distance from the predictions of the best step."""
    other = gradient_step(_best(task).float())
    total = torch.zeros(3, dtype=torch.float64)
    for first in range(0, prompts, _CHUNK):
        tokens, targets = task.sample(min(_CHUNK, prompts - first), generator)
        found, expected = layer.predictions(tokens), other.predictions(tokens)
        errors = torch.stack([found - targets, found - expected, expected])
        total += errors.double().square().sum(1)
    loss, distance, size = (total / prompts).tolist()
    return 0.5 * loss / _optimal(task).least_loss, math.sqrt(distance / size)


def _size(layer: Layer, step: float) -> float:
    """The layer's mean step along the covariates, over `step`."""
    return float(layer.step.diagonal().mean()) / step


def _distance(layer: Layer, step: Tensor) -> float:
    return float((layer.step.double() - step).norm() / step.norm())


def _alignment(layer: Layer) -> float:
    """Cosine of the layer's A and the identity."""
    step = layer.step
    return float(step.trace() / step.norm() / math.sqrt(len(step)))


def _tasks(settings: Settings) -> dict[str, InContextRegression]:
    d, decay = settings["dimension"], settings["decay"]
    base = InContextRegression(dimension=d, length=settings["length"], noise=settings["noise"], task_scale=d**-0.5)
    skewed = dataclasses.replace(base, decay=decay)
    nonlinear = dataclasses.replace(base, task_scale=(2 / d) ** 0.5)
    return {
        "isotropic": base,
        "skewed": dataclasses.replace(skewed, task_scale=float(skewed.spectrum.sum()) ** -0.5),
        "whitened": dataclasses.replace(skewed, task_decay=-decay),
        "sign": dataclasses.replace(nonlinear, response="sign"),
        "sine": dataclasses.replace(nonlinear, response="sine"),
        "relu_network": dataclasses.replace(nonlinear, response="relu_network"),
    }


def _plan(settings: Settings, quick: bool) -> Plan:
    d, n = settings["dimension"], settings["length"]
    prompts = 9e3 * max(60.0, d * d * (n + d + 1) / n)
    return Plan(runs=7, seconds=7 * (0.2 + 1e-8 * prompts * n * d) * (1 if quick else 4))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    effort, prompts = (3e3, _TEST) if quick else (1.2e4, 4 * _TEST)
    tasks, layers, losses, distances = _tasks(settings), {}, {}, {}
    for name, task in tasks.items():
        layers[name] = _trained(task, effort, generator)
        losses[name], distances[name] = _compared(layers[name], task, prompts, generator)
        progress()
    base = tasks["isotropic"]
    shuffled = _trained(base, effort, generator, shuffle=True)
    progress()
    step = theory.gradient_step(base.length, base.dimension, base.noise, base.task_scale**2)
    plain = step * torch.eye(base.dimension, dtype=torch.float64)
    return Outcome(
        measured={
            "step_size": _size(layers["isotropic"], step),
            "gradient_descent": distances["isotropic"],
            "preconditioned": [_distance(layers[name], _best(tasks[name])) for name in ("skewed", "whitened")],
            "nonlinear_step_size": [_size(layers[name], float(_best(tasks[name])[0, 0])) for name in _RESPONSES],
            "nonlinear_alignment": [_alignment(layers[name]) for name in _RESPONSES],
            "loss": list(losses.values()),
        },
        controls={
            "whole_newton_step": _size(layers["isotropic"], 1.0),
            "shuffled_labels": _size(shuffled, step),
            "not_preconditioned": [_distance(layers[name], plain) for name in ("skewed", "whitened")],
            "step_of_linear_responses": [_size(layers[name], step) for name in _RESPONSES],
        },
        series={name: layer.step.diagonal().tolist() for name, layer in layers.items()},
    )


study = Study(
    id="87",
    slug="in-context-gradient-step",
    paper=Paper(
        title="One Step of Gradient Descent is Provably the Optimal In-Context Learner with One Layer of Linear"
        " Self-Attention",
        authors=("Arvind Mahankali", "Tatsunori B. Hashimoto", "Tengyu Ma"),
        year=2023,
        url="https://arxiv.org/abs/2307.03576",
    ),
    summary="Trained linear attention takes one gradient step of closed-form size in context, preconditioned if due.",
    settings=(
        Setting("dimension", "int", 5, "covariates", 3, 12),
        Setting("length", "int", 20, "labelled examples of a prompt", 10, 40),
        Setting("noise", "float", 0.3, "standard deviation of the labels' noise, over that of the labels", 0.15, 0.6),
        Setting("decay", "float", 0.2, "variance of covariate i is i^-decay where it is not 1", 0.1, 0.4),
    ),
    statements=(
        Statement(
            "step_size",
            "equal",
            1.0,
            "The layer's step over n / (n + d + 1 + v / t): covariates and weights isotropic.",
            tolerance=0.01,
        ),
        Statement(
            "gradient_descent",
            "at_most",
            0.05,
            "Rms distance of the layer's predictions from those of that step, over the rms of the latter.",
        ),
        Statement(
            "preconditioned",
            "at_most",
            0.05,
            "Relative distance of A from the preconditioner: skewed covariates, weights isotropic or inverse to them.",
        ),
        Statement(
            "nonlinear_step_size",
            "equal",
            1.0,
            "The layer's step over its closed form: sign, sine and random ReLU network of the covariates.",
            tolerance=0.03,
        ),
        Statement(
            "nonlinear_alignment",
            "at_least",
            0.99,
            "Cosine of A and the identity, for the same responses.",
        ),
        Statement("loss", "equal", 1.0, "Loss on fresh prompts over the least one, all six tasks.", tolerance=0.06),
    ),
    controls=(
        Control("whole_newton_step", "step_size", "A step of 1, which inverts the covariance, instead."),
        Control("shuffled_labels", "step_size", "Trained on prompts whose labels belong to other prompts."),
        Control("not_preconditioned", "preconditioned", "The isotropic step instead."),
        Control("step_of_linear_responses", "nonlinear_step_size", "The step for linear responses instead."),
    ),
    plan=_plan,
    run=_run,
    smoke={"dimension": 3, "length": 10},
)
