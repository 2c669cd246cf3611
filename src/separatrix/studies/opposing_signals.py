"""Opposing signals: at the edge of stability, pairs of groups of examples swing against one another.

First a two-layer linear net, c times w x, on examples of which a few have one large feature, of either sign, and a
target that rises with its size: no linear net can follow it, so that the two signs pull its weight opposite ways. As c
grows to fit the others, the curvature along that weight rises to 2 / rate, from where the weight swings ever further.

Then tanh nets on digits, squared loss, full batch. A slow training says how far the sharpness rises by itself; a faster
one meets 2 / rate on the way. The groups are those whose losses change most at the sharpest step after that.

That sharpness rises less without such groups, as the paper finds, did not hold reliably for nets this small: over that
of a slow training on all digits, the rise was 0.4 to 1.2 without them and 0.85 to 2 without as many random digits.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from separatrix.analysis.examples import alternation, group_changes, opposing_groups
from separatrix.operators import hessian, top_eigenpairs
from separatrix.studies import _examples
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

_SLOW = 0.06  # learning rate of the slow trainings
_STEPS = 600
_EVERY = 25  # steps between measurements of the sharpness
_SIGNAL, _EXAMPLES, _PAIRS = 8, 160, 8  # of the linear model: directions, ordinary examples, outliers of each sign
_SIZE = 20.0
_EDGE = 0.9  # 2 / rate over the final curvature along the outlying feature
_LONGEST, _WINDOW = 600, 10  # steps in all, and those over which the swings are looked at
_START = 0.05  # of all weights
_ROUNDING = 1e-10  # the outlying weight shrinks to where only rounding moves it
_SWUNG = 0.7  # of the outlying feature, by which the output has swung at the end; its target is 1


@dataclasses.dataclass(frozen=True)
class _Training:
    """Losses (steps, examples) before every step, and the sharpness before every _EVERY-th."""

    losses: np.ndarray
    sharpness: np.ndarray


def _halves(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half of the squared error of each example."""
    return (outputs - targets).square().sum(1) / 2


def _mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return _halves(outputs, targets).mean()


def _descend(model: nn.Module, inputs: Tensor, targets: Tensor, rate: float, steps: int, seed: int) -> _Training:
    """Gradient descent on the full batch; the model is changed."""
    parameters = list(model.parameters())
    losses, sharpness, near = [], [], None
    for step in range(steps):
        if step % _EVERY == 0:
            generator = torch.Generator().manual_seed(seed)
            operator = hessian(model, _mean_loss, (inputs, targets))
            pair = top_eigenpairs(operator, 1, start=near, generator=generator)
            near = pair.vectors
            sharpness.append(float(pair.values[0]))
        each = _halves(model(inputs), targets)
        losses.append(each.detach().double().numpy())
        gradients = torch.autograd.grad(each.mean(), parameters)
        with torch.no_grad():
            for values, gradient in zip(parameters, gradients, strict=True):
                values.sub_(rate * gradient)
    return _Training(np.stack(losses), np.array(sharpness))


def _rise(training: _Training) -> float:
    """By how much the sharpness rises from its least, after the first fall, to its end."""
    return float(training.sharpness[-1] - training.sharpness.min())


def _crossing(sharpness: np.ndarray, edge: float) -> int:
    """Step of the first measurement, after the least one, at which the sharpness has reached the edge."""
    least = int(sharpness.argmin())
    return _EVERY * (least + int(np.argmax(sharpness[least:] >= edge)))


@dataclasses.dataclass(frozen=True)
class _Toy:
    """Least curvature, in units of 2 / rate, at which the outlying weight grew, and how the groups swing in the end."""

    grown: float
    rise: float
    correlation: float
    alternation: float


def _toy(even: bool, generator: torch.Generator) -> _Toy:
    """The linear net; the outlying feature enters the target by its size, or by its value if not `even`."""
    ordinary, outlying = (
        torch.randn(count, _SIGNAL, dtype=torch.float64, generator=generator) for count in (_EXAMPLES, _PAIRS)
    )
    direction = torch.full((_SIGNAL,), _SIGNAL**-0.5, dtype=torch.float64)
    inputs = torch.cat([ordinary, outlying, outlying])
    feature = torch.zeros(len(inputs), dtype=torch.float64)
    feature[_EXAMPLES : _EXAMPLES + _PAIRS], feature[_EXAMPLES + _PAIRS :] = _SIZE, -_SIZE
    inputs = torch.cat([inputs, feature[:, None]], 1)
    targets = inputs[:, :-1] @ direction + (feature.abs() if even else feature) / _SIZE
    rate = 2 / (_EDGE * float(feature.square().mean()))  # c and w fit the others at about 1
    weights = _START * torch.randn(_SIGNAL + 2, dtype=torch.float64, generator=generator)
    weights[-1] = _START * weights[-1].sign()  # c comes last, the outlying weight before it
    weights[-2] = _START

    def loss(values: Tensor) -> Tensor:
        return (values[-1] * inputs @ values[:-1] - targets).square().mean() / 2

    losses, curvature, outlier = [], [], []
    for _ in range(_LONGEST):
        matrix: Tensor = torch.func.hessian(loss)(weights)
        curvature.append(float(torch.linalg.eigvalsh(matrix)[-1]))
        outlier.append(abs(float(weights[-2])))
        losses.append(((weights[-1] * inputs @ weights[:-1] - targets).square() / 2).numpy())
        if curvature[-1] * rate > 2 and outlier[-1] * abs(float(weights[-1])) * _SIZE > _SWUNG:
            break
        weights = weights - rate * torch.func.grad(loss)(weights)
    reached = int(np.argmax(np.array(curvature) * rate >= 2))
    size = np.array(outlier)
    grows = (np.diff(size) > 0) & (size[:-1] > _ROUNDING)
    late = np.stack(losses)[-_WINDOW:]
    groups = [group_changes(late, np.arange(_PAIRS) + start) for start in (_EXAMPLES, _EXAMPLES + _PAIRS)]
    return _Toy(
        grown=float(np.array(curvature)[:-1][grows].min(initial=np.inf)) * rate / 2,
        rise=curvature[reached] / min(curvature[: reached + 1]),
        correlation=float(np.corrcoef(np.stack(groups))[0, 1]),
        alternation=alternation(groups[0]),
    )


def _plan(settings: Settings, quick: bool) -> Plan:
    nets = 3 if quick else 9
    return Plan(runs=nets + 1, seconds=1.0 + 2.0 * nets * (0.5 + settings["width"] / 64))


@dataclasses.dataclass(frozen=True)
class _Measured:
    """What one net showed; the names are those of the statements and controls."""

    edge: float
    correlation: float
    half_correlation: float
    alternation: float
    slow_alternation: float


def _net(inputs: Tensor, targets: Tensor, settings: Settings, seed: int) -> _Measured:
    """Train slowly to learn where the edge can be met, train so that it is met, and find the groups."""
    width, size = settings["width"], settings["size"]
    build = ensemble.stack(
        lambda: nn.Sequential(
            nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, targets.shape[1])
        ),
        [seed],
    )

    alone = _descend(build.module(0), inputs, targets, _SLOW, _STEPS, seed)
    met = float(alone.sharpness.min() + settings["height"] * _rise(alone))
    rate = 2 / met
    fast = _descend(build.module(0), inputs, targets, rate, _STEPS, seed)
    late = fast.losses[_crossing(fast.sharpness, met) :]
    groups = opposing_groups(late, size)
    halves = [group_changes(late, groups.rising[half::2]) for half in (0, 1)]
    quarter = len(fast.sharpness) // 4
    return _Measured(
        edge=float(fast.sharpness[-quarter:].mean()) / met,
        correlation=groups.correlation,
        half_correlation=float(np.corrcoef(np.stack(halves))[0, 1]),
        alternation=alternation(group_changes(late, groups.rising)),
        slow_alternation=alternation(group_changes(alone.losses[-len(late) :], groups.rising)),
    )


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    even, odd = (_toy(each, generator) for each in (True, False))
    progress()
    images, labels = _examples.digits(seed).train
    targets = functional.one_hot(labels, 10).to(images.dtype)
    nets = []
    for net in range(3 if quick else 9):
        nets.append(_net(images.flatten(1), targets, settings, 1000 * seed + net))
        progress()

    def median(name: str) -> float:
        return float(np.median([getattr(net, name) for net in nets]))

    return Outcome(
        measured={
            "toy_sharpens": even.rise,
            "toy_swings_beyond_the_edge_only": even.grown,
            "toy_groups_oppose": even.correlation,
            "sharpness_stays_at_the_edge": median("edge"),
            "groups_oppose": median("correlation"),
            "groups_alternate": median("alternation"),
        },
        controls={
            "toy_with_a_target_it_can_follow": odd.correlation,
            "toy_with_nothing_to_balance": odd.grown,
            "halves_of_one_group": median("half_correlation"),
            "slow_training": median("slow_alternation"),
        },
        series={name.name: [float(getattr(net, name.name)) for net in nets] for name in dataclasses.fields(_Measured)},
    )


study = Study(
    id="138",
    slug="opposing-signals",
    paper=Paper(
        title="Outliers with Opposing Signals Have an Outsized Effect on Neural Network Optimization",
        authors=("Elan Rosenfeld", "Andrej Risteski"),
        year=2023,
        url="https://arxiv.org/abs/2311.04163",
    ),
    summary="Sharpening ends at the edge of stability, where groups of outliers swing against each other.",
    settings=(
        Setting("width", "int", 32, "units in each of two hidden layers", 16, 64),
        Setting("size", "int", 32, "examples in each of the two groups", 16, 64),
        Setting(
            "height",
            "float",
            0.4,
            "where 2 / rate lies between the least and the last sharpness of a slow training",
            0.2,
            0.6,
            reason="at 0 the rate is too high from the start; near 1 it is met too late to swing",
        ),
    ),
    statements=(
        Statement(
            "toy_sharpens",
            "at_least",
            5.0,
            "Two-layer linear net: curvature when it reaches 2 / rate, over the least before.",
        ),
        Statement(
            "toy_swings_beyond_the_edge_only",
            "at_least",
            1.0,
            "Least curvature, in units of 2 / rate, at which the size of its outlying weight grows.",
            tolerance=0.01,
        ),
        Statement(
            "toy_groups_oppose",
            "at_most",
            -0.9,
            "Correlation of the loss changes of its two groups of outliers, as they swing.",
        ),
        Statement(
            "sharpness_stays_at_the_edge",
            "interval",
            (0.85, 1.2),
            "Nets on digits: sharpness over the last quarter of the steps, in units of 2 / rate, median of nets.",
        ),
        Statement(
            "groups_oppose",
            "at_most",
            -0.6,
            "Correlation over steps of the loss changes of the groups that oppose most at the sharpest step.",
        ),
        Statement(
            "groups_alternate",
            "at_most",
            -0.5,
            "Correlation of successive loss changes of one of these groups.",
        ),
    ),
    controls=(
        Control(
            "toy_with_a_target_it_can_follow",
            "toy_groups_oppose",
            "The target rises with the value of the outlying feature instead of its size.",
        ),
        Control("toy_with_nothing_to_balance", "toy_swings_beyond_the_edge_only", "The same target."),
        Control("halves_of_one_group", "groups_oppose", "Two halves of one of these groups."),
        Control("slow_training", "groups_alternate", "The same group in the slow training."),
    ),
    plan=_plan,
    run=_run,
    smoke={"width": 16},
)
