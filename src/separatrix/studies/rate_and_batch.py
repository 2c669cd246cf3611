"""Batch size: it raises the extremal eigenvalues of the batch's curvature, and with them the rates that are bearable.

Linear regression with planted curvature: inputs of d independent coordinates, one of variance `spike`, the others of
variance 1, so that the Gauss-Newton matrix of a batch of B is a spiked Wishart matrix. With g = d / B its largest
eigenvalue is spike (1 + g / (spike - 1)) where spike > 1 + sqrt(g), and (1 + sqrt(g))^2 otherwise. Under label noise of
variance s^2 a rate of SGD costs an excess loss near rate d s^2 / (2 B), one of Adam, whose steps are in units of the
gradient's root mean square s / sqrt(B), the root of that: equal costs mean rates like B and like sqrt(B). On data that
are not dominated by noise the exponents are smaller; they are no claim here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

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

_BATCHES = (1, 2, 4, 8)
_SHARES = (0.125, 0.25, 0.5, 1.0, 2.0)  # batch sizes over the dimension
_INPUTS = 160  # where spectra are compared
_GRID = 20
_COPIES = 8
_MOMENTS = (0.9, 0.99)


def _predicted(spike: float, ratio: float) -> float:
    """Largest eigenvalue of a spiked Wishart matrix, coordinates over examples `ratio`, in the limit of many."""
    return spike * (1 + ratio / (spike - 1)) if spike > 1 + math.sqrt(ratio) else (1 + math.sqrt(ratio)) ** 2


def _largest(batch: int, dimension: int, spike: float, draws: int, generator: torch.Generator) -> float:
    """Largest eigenvalue of the curvature of a batch, mean over draws."""
    total = 0.0
    for _ in range(draws):
        inputs = torch.randn(batch, dimension, dtype=torch.float64, generator=generator)
        inputs[:, 0] *= spike**0.5
        total += float(torch.linalg.matrix_norm(inputs, 2).square()) / batch
    return total / draws


@dataclasses.dataclass(frozen=True)
class _Moments:
    """Running means of gradients and of their squares, (copies, rates, d), after `steps`."""

    first: torch.Tensor
    second: torch.Tensor
    steps: int = 0


Rule = Callable[[torch.Tensor, _Moments], tuple[torch.Tensor, _Moments]]
"""From gradients and moments to the directions of a step and the next moments."""


def _sgd(gradients: torch.Tensor, moments: _Moments) -> tuple[torch.Tensor, _Moments]:
    return gradients, moments


def _adam(gradients: torch.Tensor, moments: _Moments) -> tuple[torch.Tensor, _Moments]:
    slow, slower = _MOMENTS
    steps = moments.steps + 1
    first = slow * moments.first + (1 - slow) * gradients
    second = slower * moments.second + (1 - slower) * gradients.square()
    direction = (first / (1 - slow**steps)) / (second / (1 - slower**steps)).sqrt().clamp(min=1e-12)
    return direction, _Moments(first, second, steps)


def _bearable(rule: Rule, batch: int, settings: Settings, steps: int, generator: torch.Generator) -> float:
    """Rate at which the excess loss, in steady state, is `excess` times the loss of the label noise.

    All rates of a grid see the same batches, from the optimum on; the crossing is interpolated between logarithms.
    """
    dimension, noise = settings["dimension"], settings["noise"]
    rates = torch.logspace(-4, 0.5, _GRID, dtype=torch.float64)
    if rule is _adam:
        rates = rates * noise
    errors = torch.zeros(_COPIES, _GRID, dimension, dtype=torch.float64)
    moments, total = _Moments(errors, errors), torch.zeros(_GRID, dtype=torch.float64)
    for step in range(steps):
        inputs = torch.randn(_COPIES, batch, dimension, dtype=torch.float64, generator=generator)
        labels = noise * torch.randn(_COPIES, 1, batch, dtype=torch.float64, generator=generator)
        direction, moments = rule((errors @ inputs.mT - labels) @ inputs / batch, moments)
        errors = (errors - rates[:, None] * direction).clamp(-1e100, 1e100)
        if step >= steps // 2:
            total += errors.square().sum(2).mean(0)
    costs = (total / (steps - steps // 2) / noise**2).log()
    limit = math.log(settings["excess"])
    above = int((costs > limit).double().argmax())
    if above == 0:
        return math.nan
    share = (limit - costs[above - 1]) / (costs[above] - costs[above - 1])
    return float((rates[above - 1].log() + share * (rates[above] / rates[above - 1]).log()).exp())


def _exact(batch: int, dimension: int, excess: float) -> float:
    """The rate r that SGD bears at curvature 1: c = c ((1 - r)^2 + r^2 (d + 1) / B) + r^2 s^2 / B, excess d c / s^2."""
    return 2 * excess / (dimension / batch + excess * (1 + (dimension + 1) / batch))


def _slope(sizes: Sequence[int], rates: Sequence[float]) -> float:
    """Least-squares slope of log rate over log size."""
    x, y = torch.tensor(sizes).double().log(), torch.tensor(rates).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def _plan(settings: Settings, quick: bool) -> Plan:
    return Plan(runs=2 + len(_SHARES), seconds=(1.0 if quick else 8.0) * (0.5 + settings["dimension"] / 100))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    steps = 2500 if quick else 15000
    dimension, spike = settings["dimension"], settings["spike"]
    measured, predicted = [], []
    for share in _SHARES:
        batch = round(share * _INPUTS)
        draws = math.ceil((800 if quick else 4000) / share**0.5 / 10)
        measured.append(_largest(batch, _INPUTS, spike, draws, generator))
        predicted.append(_predicted(spike, _INPUTS / batch))
        progress()
    rates = {}
    for name, rule in (("sgd", _sgd), ("adam", _adam)):
        rates[name] = [_bearable(rule, batch, settings, steps, generator) for batch in _BATCHES]
        progress()
    slopes = {name: _slope(_BATCHES, found) for name, found in rates.items()}
    exact = [_exact(batch, dimension, settings["excess"]) for batch in _BATCHES]
    return Outcome(
        measured={
            "batches_raise_the_largest": [value / spike for value in measured],
            "largest_falls_with_batch": measured,
            "spiked_formula": [a / b for a, b in zip(measured, predicted, strict=True)],
            "sgd_rate_like_batch": slopes["sgd"],
            "adam_rate_like_root_of_batch": slopes["adam"],
            "sgd_rate_in_closed_form": [a / b for a, b in zip(rates["sgd"], exact, strict=True)],
        },
        controls={
            "without_the_noise_of_batches": [value / spike for value in measured],
            "adam_like_batch": slopes["adam"],
            "sgd_like_root_of_batch": slopes["sgd"],
        },
        series={
            "batch_over_dimension": _SHARES,
            "largest": measured,
            "predicted": predicted,
            "batch": _BATCHES,
            **rates,
        },
    )


study = Study(
    id="105",
    slug="rate-and-batch",
    paper=Paper(
        title="Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to Neural Network Training",
        authors=("Diego Granziol", "Stefan Zohren", "Stephen Roberts"),
        year=2020,
        url="https://arxiv.org/abs/2006.09092",
    ),
    summary="Small batches raise the curvature's extremes as a formula says; rates go like B, for Adam like sqrt(B).",
    settings=(
        Setting("dimension", "int", 40, "inputs where rates are compared", 20, 80),
        Setting("spike", "float", 4.0, "variance of the planted direction", 2.0, 8.0),
        Setting("noise", "float", 1.0, "standard deviation of label noise", 0.1, 10.0),
        Setting("excess", "float", 0.1, "excess loss that is borne, over the loss of the label noise", 0.05, 0.2),
    ),
    statements=(
        Statement(
            "batches_raise_the_largest",
            "at_least",
            1.0,
            "Largest eigenvalue of a batch's curvature over that of all data, for batches of d / 8 to 2 d.",
        ),
        Statement("largest_falls_with_batch", "monotone", "decreasing", "That eigenvalue, for ever larger batches."),
        Statement(
            "spiked_formula",
            "interval",
            (0.9, 1.1),
            "That eigenvalue over the spiked Wishart formula, mean over draws.",
        ),
        Statement(
            "sgd_rate_like_batch",
            "interval",
            (0.85, 1.15),
            "Exponent with which the rate that SGD bears grows with batches of 1 to 8.",
        ),
        Statement(
            "adam_rate_like_root_of_batch",
            "interval",
            (0.35, 0.65),
            "Exponent with which the rate that Adam bears grows with batches of 1 to 8.",
        ),
        Statement(
            "sgd_rate_in_closed_form",
            "interval",
            (0.9, 1.1),
            "The rate that SGD bears over that of the exact second moment of its errors, by batch size.",
        ),
    ),
    controls=(
        Control("without_the_noise_of_batches", "spiked_formula", "The eigenvalue of all data as the prediction."),
        Control("adam_like_batch", "sgd_rate_like_batch", "The exponent of Adam."),
        Control("sgd_like_root_of_batch", "adam_rate_like_root_of_batch", "The exponent of SGD."),
    ),
    plan=_plan,
    run=_run,
    smoke={"dimension": 20},
)
