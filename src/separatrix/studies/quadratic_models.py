"""Catapults: past the step size 2 / curvature a wide net's loss first soars and then falls into a flatter place.

The net is f(x) = (w d)^(-1/2) sum_j v_j relu(u_j . x), w units, d inputs of norm sqrt(d), weights from N(0, 1). Its
quadratic Taylor model at the start keeps the activation pattern of the start, its linear one also drops the product of
both layers' displacements. Step sizes are multiples of 1 / curvature: of the largest eigenvalue that the Hessian of the
linear model's loss, half the mean squared error, has at the start.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

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

Model = Literal["net", "quadratic", "linear"]
_GONE = 1e12
_SETTLED = 1e-3
_LIMITS = (4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0, 20.0)
_CATAPULTS = (2.2, 2.5, 2.8, 3.1)
_CALM = (1.2, 1.4, 1.6, 1.8)
_LEARNED = 1e-2
_TEST = 500
_UNITS = 256


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Copies of a problem: inputs (copies, n, d), targets (copies, n), weights u (copies, w, d) and v (copies, w)."""

    inputs: torch.Tensor
    targets: torch.Tensor
    hidden: torch.Tensor
    output: torch.Tensor

    @property
    def scale(self) -> float:
        return 1.0 / math.sqrt(self.output.shape[1] * self.inputs.shape[2])


@dataclasses.dataclass(frozen=True)
class _Fate:
    """Training of all copies: losses (steps + 1, copies), last curvature over the first (copies,), last weights."""

    losses: torch.Tensor
    curvature: torch.Tensor
    hidden: torch.Tensor
    output: torch.Tensor

    @property
    def growth(self) -> torch.Tensor:
        """Largest loss over the first, (copies,)."""
        return self.losses.max(0).values / self.losses[0]

    @property
    def remains(self) -> torch.Tensor:
        """Last loss over the first, (copies,)."""
        return self.losses[-1] / self.losses[0]


def _problem(copies: int, width: int, dimension: int, examples: int, seed: int, product: bool = False) -> _Problem:
    """Targets are random signs, or the product of the first two inputs, which are then Gaussian."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(copies, *shape, dtype=torch.float64, generator=generator)

    inputs = normal(examples, dimension)
    if product:
        targets = inputs[..., 0] * inputs[..., 1]
    else:
        inputs = inputs * dimension**0.5 / inputs.norm(dim=2, keepdim=True)
        targets = normal(examples).sign()
    return _Problem(inputs, targets, normal(width, dimension), normal(width))


def _evaluated(
    model: Model, problem: _Problem, hidden: torch.Tensor, output: torch.Tensor, inputs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Outputs (copies, n), and their derivatives: by v, and by u divided by x, both (copies, n, w)."""
    now = inputs @ hidden.mT
    first = now if model == "net" else inputs @ problem.hidden.mT
    active = (first > 0).double() * problem.scale
    if model != "linear":
        by_output, by_hidden = now * active, active * output[:, None]
        return (by_output @ output[..., None])[..., 0], by_output, by_hidden
    by_output, by_hidden = first * active, active * problem.output[:, None]
    moved = by_output @ (output - problem.output)[..., None] + (now * active) @ problem.output[..., None]
    return moved[..., 0], by_output, by_hidden


def _curvature(inputs: torch.Tensor, by_output: torch.Tensor, by_hidden: torch.Tensor) -> torch.Tensor:
    """Largest eigenvalue of the tangent kernel over the number of examples, (copies,)."""
    kernel = by_output @ by_output.mT + (inputs @ inputs.mT) * (by_hidden @ by_hidden.mT)
    largest: torch.Tensor = torch.linalg.eigvalsh(kernel)[:, -1]
    return largest / inputs.shape[1]


def _train(model: Model, problem: _Problem, multiple: float, steps: int, settled: float = _SETTLED) -> _Fate:
    """Gradient descent on the mean squared loss, step size `multiple` over the first curvature.

    A copy stays where it is once its loss grew by `_GONE` or fell below the share `settled` of its start.
    """
    hidden, output = problem.hidden, problem.output
    _, by_output, by_hidden = _evaluated("net", problem, hidden, output, problem.inputs)
    first = _curvature(problem.inputs, by_output, by_hidden)
    rate = multiple / first / problem.inputs.shape[1]
    losses: list[torch.Tensor] = []
    for step in range(steps + 1):
        outputs, by_output, by_hidden = _evaluated(model, problem, hidden, output, problem.inputs)
        residual = outputs - problem.targets
        losses.append(residual.square().mean(1) / 2)
        growth = losses[-1] / losses[0]
        if step == steps or bool(((growth > _GONE) | (growth < settled)).all()):
            break
        moving = torch.where((growth > _GONE) | (growth < settled), 0.0, rate)[:, None] * residual
        output = output - (moving[:, None] @ by_output)[:, 0]
        hidden = hidden - (moving[..., None] * by_hidden).mT @ problem.inputs
    last = _curvature(problem.inputs, by_output, by_hidden)
    return _Fate(torch.stack(losses), last / first, hidden, output)


def _reduced(problem: _Problem, multiple: float, steps: int, feedback: float = 1.0) -> torch.Tensor:
    """Losses (steps + 1, copies) of the quadratic model of one example, from its output and curvature alone.

    With f the output, k the curvature, r the residual and s the step size: f <- f - s r k + (s r)^2 f / w and
    k <- k - 4 s r f / w + (s r)^2 k / w, exactly. Without `feedback` the terms over the width are left out.
    """
    outputs, by_output, by_hidden = _evaluated("net", problem, problem.hidden, problem.output, problem.inputs)
    output, curvature = outputs[:, 0], _curvature(problem.inputs, by_output, by_hidden)
    rate, inverse = multiple / curvature, feedback / problem.output.shape[1]
    losses = []
    for _ in range(steps + 1):
        residual = output - problem.targets[:, 0]
        losses.append(residual.square() / 2)
        push = rate * residual
        output, curvature = (
            output - push * curvature + push.square() * output * inverse,
            curvature - 4 * push * output * inverse + push.square() * curvature * inverse,
        )
    return torch.stack(losses)


def _deviation(exact: torch.Tensor, reduced: torch.Tensor) -> float:
    """Largest difference of two losses (steps, copies) until the first settles, over the copy's largest loss."""
    before = exact > _SETTLED * exact[0]
    return float(((exact - reduced[: len(exact)]).abs() * before / exact.max(0).values).max())


def _rise(fate: _Fate) -> float:
    """Largest change of the loss in a step over the loss before it, until it settles."""
    change = fate.losses.diff(dim=0) / fate.losses[:-1]
    return float(change.where(fate.losses[:-1] > _SETTLED * fate.losses[0], -1.0).max())


def _slope(widths: Sequence[int], values: Sequence[float]) -> float:
    """Least-squares slope of log value over log width."""
    x, y = torch.tensor(widths).double().log(), torch.tensor(values).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def _test_loss(model: Model, problem: _Problem, fate: _Fate, inputs: torch.Tensor) -> torch.Tensor:
    """Mean squared error on fresh inputs, (copies,); infinite where training diverged."""
    outputs, _, _ = _evaluated(model, problem, fate.hidden, fate.output, inputs)
    error = (outputs - inputs[..., 0] * inputs[..., 1]).square().mean(1)
    return error.where(fate.remains < 1.0, torch.inf)


def _gains(model: Model, problem: _Problem, inputs: torch.Tensor, steps: int) -> tuple[float, float]:
    """Least test loss after catapults, and after calm trainings, over that after one calm training; medians."""
    losses = torch.stack(
        [_test_loss(model, problem, _train(model, problem, c, steps, _LEARNED), inputs) for c in (*_CATAPULTS, *_CALM)]
    ).log()
    thrown, calm = losses[: len(_CATAPULTS)].min(0).values, losses[len(_CATAPULTS) :]
    return float((thrown - calm[0]).median().exp()), float((calm.min(0).values - calm[0]).median().exp())


def _plan(settings: Settings, quick: bool) -> Plan:
    return Plan(runs=8, seconds=(4e-4 if quick else 2e-3) * settings["width"] * (settings["dimension"] + 10))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    copies, steps = (8, 400) if quick else (24, 1500)
    below, catapult, above = settings["below"], settings["catapult"], settings["above"]
    dimension, examples = settings["dimension"], settings["examples"]
    width = settings["width"]
    widths = [width * factor for factor in ((4, 16) if quick else (4, 8, 16, 32))]
    both: tuple[Model, Model] = ("net", "quadratic")

    peaks: dict[str, list[float]] = {"net": [], "quadratic": [], "below": []}
    for each in widths:
        origin = _problem(4 * copies, each, dimension, 1, seed)
        origin = dataclasses.replace(origin, targets=torch.zeros_like(origin.targets))
        for name, model, multiple in (*((m, m, catapult) for m in both), ("below", both[0], below)):
            fate = _train(model, origin, multiple, steps)
            peaks[name].append(float(fate.losses.max(0).values.log().mean().exp()))
    progress()

    single = _problem(copies, 4 * width, dimension, 1, seed)
    batch = _problem(copies, 4 * width, dimension, examples, seed)
    calm = [_train(model, problem, below, steps) for model in (*both, "linear") for problem in (single, batch)]
    progress()
    thrown = [_train(model, problem, catapult, steps) for model in both for problem in (single, batch)]
    progress()
    lost = [_train("linear", problem, catapult, steps) for problem in (single, batch)]
    progress()
    beyond = [_train("quadratic", problem, above, steps) for problem in (single, batch)]
    alone = _train("net", single, above, steps)
    progress()
    stray = [float((_train("net", batch, limit, steps).growth >= _GONE).double().mean()) for limit in _LIMITS]
    progress()

    exact = thrown[2].losses
    reduced = [_reduced(single, catapult, len(exact) - 1, feedback) for feedback in (1.0, 0.0)]
    learned = _problem(3 * copies // 2, _UNITS, 10, 64, seed, product=True)
    fresh = torch.randn(
        3 * copies // 2, _TEST, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1)
    )
    gains = []
    for model in both:
        gains.append(_gains(model, learned, fresh, 4 * steps))
        progress()
    limit = next((limit for limit, share in zip(_LIMITS, stray, strict=True) if share >= 0.5), math.inf)
    return Outcome(
        measured={
            "calm_below": [_rise(fate) for fate in calm],
            "linear_model_diverges": [float(fate.growth.min()) for fate in lost],
            "catapult_converges": [float(fate.remains.max()) for fate in thrown],
            "catapult_flattens": [float(catapult * fate.curvature.max()) for fate in thrown],
            "peak_grows_like_width": [_slope(widths, peaks[model]) for model in both],
            "two_numbers_suffice": _deviation(exact, reduced[0]),
            "quadratic_model_diverges_above": [float(fate.growth.min()) for fate in beyond],
            "net_stays_bounded_on_one_example": float((alone.losses[-1] / single.targets[:, 0].square() * 2).max()),
            "net_limit_on_a_batch": limit,
            "catapults_generalise": [gain for gain, _ in gains],
        },
        controls={
            "linear_model": [float(fate.remains.max()) for fate in lost],
            "below_the_critical_step": _slope(widths, peaks["below"]),
            "without_feedback": _deviation(exact, reduced[1]),
            "net_on_one_example": float(alone.growth.min()),
            "best_of_four_calm": [gain for _, gain in gains],
        },
        series={
            "catapult_loss": exact.log().mean(1).exp().tolist(),
            "diverged_share": stray,
            "diverged_step": _LIMITS,
        },
    )


study = Study(
    id="477",
    slug="quadratic-models",
    paper=Paper(
        title="Quadratic models for understanding catapult dynamics of neural networks",
        authors=("Libin Zhu", "Chaoyue Liu", "Adityanarayanan Radhakrishnan", "Mikhail Belkin"),
        year=2022,
        url="https://arxiv.org/abs/2205.11787",
    ),
    summary="Past 2 / curvature a wide net and its quadratic model land in a flatter place; its linear model diverges.",
    settings=(
        Setting("width", "int", 128, "a quarter of the units of the nets", 64, 256),
        Setting("dimension", "int", 10, "inputs", 5, 20),
        Setting("examples", "int", 4, "examples of the batch", 3, 12),
        Setting("below", "float", 1.0, "step size of the calm trainings, over 1 / curvature", 0.4, 1.6),
        Setting(
            "catapult",
            "float",
            3.0,
            "step size of the catapults, over 1 / curvature",
            2.2,
            3.6,
            reason="the phase lies between 2 and 4; its ends take ever more steps, or width",
        ),
        Setting("above", "float", 8.0, "step size past the phase, over 1 / curvature", 5.0, 20.0),
    ),
    statements=(
        Statement(
            "calm_below",
            "at_most",
            0.0,
            "Below 2 / curvature no loss ever rises: net, quadratic and linear model, of one example and a batch each.",
        ),
        Statement(
            "linear_model_diverges",
            "at_least",
            1e6,
            "In the catapult phase the linear model's loss grows without bound: growth for one example and a batch.",
        ),
        Statement(
            "catapult_converges",
            "at_most",
            1e-3,
            "There net and quadratic model reach this share of their first loss, of one example and a batch each.",
        ),
        Statement(
            "catapult_flattens",
            "at_most",
            2.0,
            "Where they end, step size times curvature is at most 2.",
        ),
        Statement(
            "peak_grows_like_width",
            "interval",
            (0.75, 1.25),
            "Exponent with which the loss's peak grows with width, target 0: net and quadratic model of one example.",
        ),
        Statement(
            "two_numbers_suffice",
            "at_most",
            1e-6,
            "Output and curvature alone predict the quadratic model's loss on one example: error over the peak.",
        ),
        Statement(
            "quadratic_model_diverges_above",
            "at_least",
            1e6,
            "Past 4 / curvature the quadratic model's loss grows without bound: growth for one example and a batch.",
        ),
        Statement(
            "net_stays_bounded_on_one_example",
            "at_most",
            1.0,
            "The ReLU net does not: it converges, or its units die and its loss is that of output 0, the unit here.",
            tolerance=1e-6,
        ),
        Statement(
            "net_limit_on_a_batch",
            "interval",
            (4.0, 16.0),
            "Step size over 1 / curvature from which most nets diverge on a batch.",
        ),
        Statement(
            "catapults_generalise",
            "at_most",
            0.99,
            "Test loss of the best of four catapults over that of a calm training, median copy: net and quadratic.",
        ),
    ),
    controls=(
        Control("linear_model", "catapult_converges", "The linear model in the catapult phase."),
        Control("below_the_critical_step", "peak_grows_like_width", "The net below 2 / curvature."),
        Control("without_feedback", "two_numbers_suffice", "The same two numbers without their terms over the width."),
        Control("net_on_one_example", "quadratic_model_diverges_above", "The ReLU net on one example."),
        Control("best_of_four_calm", "catapults_generalise", "The best of four calm trainings instead."),
    ),
    plan=_plan,
    run=_run,
    smoke={"width": 64, "dimension": 5},
)
