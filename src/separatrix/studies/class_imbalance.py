"""Class imbalance: gradient descent first gives the minority up; per-class normalisation, and batches, change that.

Odd against even handwritten digits, a hidden layer of tanh units, cross-entropy. Gradients of the two class means are
kept apart, so that each rule is a choice of their weights: shares of the data (gradient descent), or inverse norms
(per-class normalised, PCNGD), and either from batches in which each class is drawn for itself.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

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

_FRACTIONS = (0.25, 0.5, 1.0)
_MAJORITY = 400
_NEUTRAL = 0.1  # output weights this small start both classes near log 2
_EARLY = 40
_PIXEL_RMS = 0.4818  # of all digits, so that inputs have a root mean square near 1

Classes = tuple[torch.Tensor, torch.Tensor]
"""Something for the majority and for the minority."""
Weights = Callable[[Classes], Classes]
"""From the class gradients, each (copies, parameters), to the weights that a rule gives them, each (copies, 1)."""


@dataclasses.dataclass(frozen=True)
class _Training:
    """Per-class mean losses and recalls before every step, each (steps + 1, copies, 2)."""

    losses: torch.Tensor
    recalls: torch.Tensor


def _digits(generator: torch.Generator, majority: int, minority: int) -> Classes:
    """Even and odd digits, pixels of root mean square 1: (majority, 64) and (minority, 64), in random order."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels, odd = torch.tensor(data.data / (16.0 * _PIXEL_RMS)), torch.tensor(data.target) % 2 == 1
    even_rows, odd_rows = pixels[~odd], pixels[odd]
    return (
        even_rows[torch.randperm(len(even_rows), generator=generator)[:majority]],
        odd_rows[torch.randperm(len(odd_rows), generator=generator)[:minority]],
    )


def _initial(copies: int, width: int, inputs: int, generator: torch.Generator) -> torch.Tensor:
    """Weights of all copies in one row each, (copies, parameters): uniform within 1/sqrt(fan-in), outputs damped."""
    count = width * (inputs + 1)
    hidden = (torch.rand(copies, count, dtype=torch.float64, generator=generator) * 2 - 1) / inputs**0.5
    output = (torch.rand(copies, 2 * width, dtype=torch.float64, generator=generator) * 2 - 1) / width**0.5
    return torch.cat((hidden, _NEUTRAL * output, torch.zeros(copies, 2, dtype=torch.float64)), 1)


def _outputs(weights: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Outputs (copies, examples, 2) for inputs (examples, features) or (copies, examples, features)."""
    features = inputs.shape[-1]
    width = (weights.shape[1] - 2) // (features + 3)
    first, bias, second, offset = torch.split(weights, [width * features, width, 2 * width, 2], 1)
    hidden = torch.tanh(inputs @ first.view(-1, width, features).mT + bias[:, None])
    outputs: torch.Tensor = hidden @ second.view(-1, width, 2) + offset[:, None]
    return outputs


def _class_loss(weights: torch.Tensor, inputs: torch.Tensor, label: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss of one class, and the share of it that is recognised, each (copies,)."""
    outputs = _outputs(weights, inputs)
    loss = -functional.log_softmax(outputs, 2)[..., label].mean(1)
    return loss, (outputs.argmax(2) == label).double().mean(1)


def _class_gradient(weights: torch.Tensor, inputs: torch.Tensor, label: int) -> torch.Tensor:
    leaf = weights.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(_class_loss(leaf, inputs, label)[0].sum(), leaf)
    return gradient


def _gradients(weights: torch.Tensor, classes: Classes) -> Classes:
    return _class_gradient(weights, classes[0], 0), _class_gradient(weights, classes[1], 1)


def _shares(counts: Sequence[int]) -> Weights:
    def rule(gradients: Classes) -> Classes:
        one = torch.ones_like(gradients[0][:, :1])
        return one * (counts[0] / sum(counts)), one * (counts[1] / sum(counts))

    return rule


def _normalised(gradients: Classes) -> Classes:
    majority, minority = (1.0 / gradient.norm(dim=1, keepdim=True) for gradient in gradients)
    return majority, minority


def _batch(classes: Classes, copies: int, sizes: Sequence[int], generator: torch.Generator) -> Classes:
    """Examples drawn with replacement, for every copy and class apart: each (copies, size, features)."""
    majority, minority = (
        rows[torch.randint(len(rows), (copies, size), generator=generator)]
        for rows, size in zip(classes, sizes, strict=True)
    )
    return majority, minority


def _train(
    weights: torch.Tensor,
    classes: Classes,
    rule: Weights,
    rate: float,
    steps: int,
    draw: Callable[[], Classes] | None = None,
    until_recovered: bool = False,
) -> _Training:
    """Follow a rule; `draw` gives what each step's gradients are computed from, losses are of all `classes`."""
    losses, recalls = [], []
    for step in range(steps + 1):
        seen = [_class_loss(weights, rows, label) for label, rows in enumerate(classes)]
        losses.append(torch.stack([loss for loss, _ in seen], 1))
        recalls.append(torch.stack([recall for _, recall in seen], 1))
        if step == steps or (until_recovered and step and bool((losses[-1] < losses[0])[:, 1].all())):
            break
        gradients = _gradients(weights, draw() if draw else classes)
        shares = rule(gradients)
        weights = weights - rate * (shares[0] * gradients[0] + shares[1] * gradients[1])
    return _Training(torch.stack(losses), torch.stack(recalls))


def _recovery(training: _Training) -> float:
    """Steps after its peak until the minority's loss is below its start, mean over copies; all where it never is."""
    loss = training.losses[..., 1]
    back = (loss < loss[0]) & (torch.arange(len(loss))[:, None] > loss.argmax(0))
    return float(torch.where(back.any(0), back.double().argmax(0).double(), float(len(loss))).mean())


def _slowing(trainings: Sequence[_Training]) -> list[float]:
    """By what each recovery takes longer than the one before."""
    times = [_recovery(training) for training in trainings]
    return [later / earlier for earlier, later in itertools.pairwise(times)]


def _peak(training: _Training) -> float:
    """Largest loss of the minority over its first one, in the copy where that is smallest."""
    loss = training.losses[..., 1]
    return float((loss.max(0).values / loss[0]).min())


def _steepest_rise(training: _Training) -> float:
    """Largest change of a class loss in one step, over steps, copies and classes."""
    return float(training.losses.diff(dim=0).max())


def _progress(training: _Training) -> float:
    """By how much the minority's loss fell, mean over copies."""
    return float((training.losses[0] - training.losses[-1])[:, 1].mean())


@dataclasses.dataclass(frozen=True)
class _Noise:
    """Of a gradient from a batch, by class (majority, minority), mean over copies.

    `ratio` is |mean|^2 over the mean square of the noise, `alignment` the mean cosine with the exact gradient.
    """

    ratio: torch.Tensor
    alignment: torch.Tensor


def _noise(weights: torch.Tensor, classes: Classes, draw: Callable[[], Classes], draws: int) -> _Noise:
    exact = _gradients(weights, classes)
    drawn = [_gradients(weights, draw()) for _ in range(draws)]
    ratios, cosines = [], []
    for label in (0, 1):
        batches = torch.stack([pair[label] for pair in drawn])
        power = (batches - exact[label]).square().sum(2).mean(0)
        ratios.append((exact[label].square().sum(1) / power).mean())
        cosines.append(functional.cosine_similarity(batches, exact[label][None], dim=2).mean())
    return _Noise(torch.stack(ratios), torch.stack(cosines))


def _counts(settings: Settings) -> tuple[int, int]:
    """Examples of the majority and the minority in a batch; each class has at least one."""
    minority = max(1, round(settings["batch_size"] / (1.0 + settings["ratio"])))
    return settings["batch_size"] - minority, minority


def _plan(settings: Settings, quick: bool) -> Plan:
    copies = 4 if quick else 12
    steps = 600.0 / settings["rate_times_width"]
    return Plan(runs=12, seconds=3e-4 * steps * copies * settings["width"] / 32)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    copies, draws = (4, 60) if quick else (12, 240)
    generator = torch.Generator().manual_seed(seed)
    width, step = settings["width"], settings["normalised_step"]
    rate, limit = settings["rate_times_width"] / width, math.ceil(10000 / settings["rate_times_width"])
    digits = _digits(generator, _MAJORITY, _MAJORITY)
    classes = digits[0], digits[1][: round(_MAJORITY / settings["ratio"])]
    start = _initial(copies, width, digits[0].shape[1], generator)

    def train(*arguments: Any, **options: Any) -> _Training:
        training = _train(start, *arguments, **options)
        progress()
        return training

    def descend(chosen: Classes, counts: Sequence[int]) -> _Training:
        return train(chosen, _shares(counts), rate, limit, until_recovered=True)

    parts = [(digits[0][: round(_MAJORITY * share)], classes[1]) for share in _FRACTIONS]
    plain = [descend(part, [len(rows) for rows in part]) for part in parts]
    weighted = [descend(part, (1, 1)) for part in parts]
    peaked = int(plain[-1].losses[..., 1].argmax(0).max())
    balanced = train(digits, _shares((1, 1)), rate, peaked)

    majority, minority = _counts(settings)
    between = max(minority + 1, round(math.sqrt(majority * minority)))

    def batches(sizes: Sequence[int]) -> Callable[[], Classes]:
        return lambda: _batch(classes, copies, sizes, generator)

    def normalised(draw: Callable[[], Classes] | None) -> _Training:
        return train(classes, _normalised, step, _EARLY, draw)

    exact = normalised(None)
    shares = [
        _progress(normalised(batches(sizes))) / _progress(exact)
        for sizes in ((majority, minority), (majority, between), (majority, majority), (4 * majority, minority))
    ]
    own, level = (
        _noise(start, classes, batches(sizes), draws) for sizes in ((majority, minority), (majority, majority))
    )
    recall = plain[-1].recalls[..., 1].mean(1)
    gaps = [float(noise.ratio[0] / noise.ratio[1]) * minority / majority for noise in (own, level)]
    return Outcome(
        measured={
            "minority_loss_rises_first": _peak(plain[-1]),
            "minority_recall_drops_first": float(recall.min() / recall[0]),
            "recovery_slows_with_ratio": _slowing(plain),
            "normalisation_never_raises_a_class_loss": _steepest_rise(exact),
            "noise_gap_is_the_count_ratio": gaps[0],
            "noise_sets_the_alignment": (own.alignment - (1 + 1 / own.ratio).rsqrt()).abs().tolist(),
            "batches_undo_normalisation": shares[0],
            "progress_grows_with_the_minority_in_a_batch": shares[:3],
            "oversampling_restores_normalisation": shares[2],
        },
        controls={
            "balanced_data": _peak(balanced),
            "weighted_loss": _slowing(weighted),
            "gradient_descent": _steepest_rise(plain[-1]),
            "level_batches": gaps[1],
            "oversampled_majority": shares[3],
        },
        series={
            "minority_loss": plain[-1].losses[..., 1].mean(1).tolist(),
            "majority_loss": plain[-1].losses[..., 0].mean(1).tolist(),
            "minority_recall": recall.tolist(),
            "normalised_minority_loss": exact.losses[..., 1].mean(1).tolist(),
            "normalised_majority_loss": exact.losses[..., 0].mean(1).tolist(),
        },
    )


study = Study(
    id="505",
    slug="class-imbalance",
    paper=Paper(
        title="A Theoretical Analysis of the Learning Dynamics under Class Imbalance",
        authors=("Emanuele Francazi", "Marco Baity-Jesi", "Aurelien Lucchi"),
        year=2022,
        url="https://arxiv.org/abs/2207.00391",
    ),
    summary="Gradient descent first unlearns the minority; normalising per class mends it, unless batches are noisy.",
    settings=(
        Setting("ratio", "float", 30.0, "examples of the majority for each of the minority", 10.0, 60.0),
        Setting("width", "int", 32, "hidden units", 16, 64),
        Setting("rate_times_width", "float", 2.0, "learning rate of gradient descent, times the width", 1.0, 4.0),
        Setting("normalised_step", "float", 0.01, "learning rate of the per-class normalised rules", 0.004, 0.016),
        Setting("batch_size", "int", 32, "examples in a batch, classes in proportion, each at least once", 16, 64),
    ),
    statements=(
        Statement(
            "minority_loss_rises_first",
            "at_least",
            1.5,
            "Under gradient descent the minority's loss peaks this many times above its start, in every copy.",
        ),
        Statement(
            "minority_recall_drops_first",
            "at_most",
            0.5,
            "The minority's recall falls to this share of its start, before it recovers.",
        ),
        Statement(
            "recovery_slows_with_ratio",
            "at_least",
            1.5,
            "Factor in the steps until the minority's loss is back at its start, for each of two doublings of ratio.",
        ),
        Statement(
            "normalisation_never_raises_a_class_loss",
            "at_most",
            0.0,
            "With per-class normalised gradients (PCNGD) no class loss rises in any of the first steps.",
        ),
        Statement(
            "noise_gap_is_the_count_ratio",
            "interval",
            (0.5, 2.0),
            "Signal-to-noise ratio of the majority's batch gradient over the minority's, in units of their counts.",
        ),
        Statement(
            "noise_sets_the_alignment",
            "at_most",
            0.1,
            "Mean cosine of batch and exact class gradients is 1 / sqrt(1 + 1 / signal-to-noise), by class.",
        ),
        Statement(
            "batches_undo_normalisation",
            "at_most",
            0.7,
            "From batches (PCNSGD) the minority's loss falls by this share of its fall under PCNGD.",
        ),
        Statement(
            "progress_grows_with_the_minority_in_a_batch",
            "monotone",
            "increasing",
            "That share, for ever more of the minority in a batch.",
        ),
        Statement(
            "oversampling_restores_normalisation",
            "at_least",
            0.8,
            "That share when a batch holds as many of the minority as of the majority (PCNSGD with oversampling).",
        ),
    ),
    controls=(
        Control("balanced_data", "minority_loss_rises_first", "As many odd digits as even ones, for as many steps."),
        Control("weighted_loss", "recovery_slows_with_ratio", "Each class weighs one half in the loss."),
        Control("gradient_descent", "normalisation_never_raises_a_class_loss", "Gradient descent instead of PCNGD."),
        Control("level_batches", "noise_gap_is_the_count_ratio", "Both classes fill half of the batch."),
        Control(
            "oversampled_majority", "oversampling_restores_normalisation", "The majority is drawn four times as often."
        ),
    ),
    plan=_plan,
    run=_run,
    smoke={"width": 16, "rate_times_width": 3.0, "ratio": 10.0},
)
