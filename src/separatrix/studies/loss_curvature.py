"""Loss curvature and warm-up: what trains at high rates avoids high curvature, or finds its way out of it.

Fully connected ReLU nets without biases learn handwritten digits by full-batch gradient descent on the cross-entropy,
at rates 2^k times 2 / curvature, the largest eigenvalue of the Hessian at the start. Weights of all layers start
`gain` times as large as He's: curvature is far too high. A rate trains when the loss ends below half of log 10.

The paper finds warm-up as good as normalisation and better first weights. Here that does not hold to the letter:
warm-up raises the largest rate by a factor 2 to 10, layer normalisation of such nets a hundredfold, as no layer's scale
matters to them any more.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

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

_EXAMPLES = 96
_PIXEL_RMS = 0.4818  # of all digits, so that inputs have a root mean square near 1
_LEARNT = math.log(10) / 2
_POWERS = tuple(range(-1, 10))  # rates over 2 / curvature are 2 to these powers
_PRODUCTS = 16
_EARLY = 5
_PAST = 2  # power from which on rates are well past 2 / curvature
_FAR = 8
_CLIP = 1.0
_LARGEST = 1e30  # stands for losses that overflow

Weights = list[torch.Tensor]
"""By layer, (copies, out, in)."""


@dataclasses.dataclass(frozen=True)
class _Data:
    """Images (seeds, n, 64) and digits (seeds, n)."""

    images: torch.Tensor
    digits: torch.Tensor

    def repeated(self, times: int) -> _Data:
        """Each seed's data `times` times."""
        return _Data(self.images.repeat_interleave(times, 0), self.digits.repeat_interleave(times, 0))


def _drawn(seeds: int, generator: torch.Generator) -> _Data:
    from sklearn.datasets import load_digits

    data = load_digits()
    rows = torch.stack([torch.randperm(len(data.target), generator=generator)[:_EXAMPLES] for _ in range(seeds)])
    images = torch.tensor(data.data / (16.0 * _PIXEL_RMS), dtype=torch.float32)
    return _Data(images[rows], torch.tensor(data.target).long()[rows])


def _initial(seeds: int, depth: int, width: int, generator: torch.Generator) -> Weights:
    sizes = [64, *[width] * depth, 10]
    return [
        math.sqrt(2 / before) * torch.randn(seeds, after, before, generator=generator)
        for before, after in itertools.pairwise(sizes)
    ]


def _loss(weights: Weights, data: _Data, normalised: bool) -> torch.Tensor:
    """Mean cross-entropy, (copies,)."""
    signal = data.images
    for weight in weights[:-1]:
        signal = signal @ weight.mT
        if normalised:
            signal = functional.layer_norm(signal, signal.shape[-1:])
        signal = torch.relu(signal)
    outputs = (signal @ weights[-1].mT).flatten(0, 1)
    each = functional.cross_entropy(outputs, data.digits.flatten(), reduction="none")
    return each.view(len(data.digits), -1).mean(1)


def _norm(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of all layers together, (copies, 1, 1)."""
    return torch.stack([part.square().sum((1, 2)) for part in parts]).sum(0).sqrt()[:, None, None]


def _curvature(weights: Weights, data: _Data, normalised: bool, generator: torch.Generator) -> torch.Tensor:
    """Largest eigenvalue of the Hessian, (copies,), by the Lanczos method with full orthogonalisation; NaN stays so."""
    leaves = [weight.detach().requires_grad_() for weight in weights]
    gradients = torch.autograd.grad(_loss(leaves, data, normalised).sum(), leaves, create_graph=True)
    sizes = [leaf[0].numel() for leaf in leaves]
    start = torch.randn(len(data.digits), sum(sizes), generator=generator)
    basis = functional.normalize(start, dim=1)[:, None]
    projected = torch.zeros(len(start), _PRODUCTS, _PRODUCTS, dtype=torch.float64)
    for index in range(_PRODUCTS):
        parts = [part.view_as(leaf) for part, leaf in zip(torch.split(basis[:, index], sizes, 1), leaves, strict=True)]
        product = torch.cat(
            [part.flatten(1) for part in torch.autograd.grad(gradients, leaves, parts, retain_graph=True)], 1
        )
        overlap = basis @ product[..., None]
        projected[:, : index + 1, index] = overlap[..., 0].double()
        rest = product - (basis.mT @ overlap)[..., 0]
        rest = rest - (basis.mT @ (basis @ rest[..., None]))[..., 0]
        basis = torch.cat((basis, functional.normalize(rest, dim=1)[:, None]), 1)
    finite = projected.isfinite().all(2).all(1)
    upper = projected.triu() + projected.triu(1).mT
    values = torch.linalg.eigvalsh(upper.where(finite[:, None, None], 0.0))[:, -1]
    return torch.where(finite, values, math.nan).float()


@dataclasses.dataclass(frozen=True)
class _Sweep:
    """Trainings at all rates: `rates` (seeds, rates) and losses (steps + 1, seeds, rates).

    `first` is the curvature at the start, (seeds,), `last` at the end, (seeds, rates), both in units of 2 / rate.
    """

    rates: torch.Tensor
    losses: torch.Tensor
    first: torch.Tensor
    last: torch.Tensor

    @property
    def trained(self) -> torch.Tensor:
        """(seeds, rates)."""
        return self.losses[-1] <= _LEARNT

    def limit(self) -> torch.Tensor:
        """Largest rate that trains, (seeds,); where none does, the one below all that were tried."""
        return torch.where(self.trained, self.rates, self.rates[:, :1] / 2).amax(1)


def _sweep(
    initial: Weights,
    data: _Data,
    generator: torch.Generator,
    *,
    steps: int,
    warm_up: int = 1,
    normalised: bool = False,
    clip: float = math.inf,
    look: bool = False,
) -> _Sweep:
    """Train every seed at every rate, which `warm_up` steps reach in equal increments; gradients of at most `clip`.

    The last curvature is computed for those who `look`, and NaN for others.
    """
    curvature = _curvature(initial, data, normalised, generator)
    rates = 2 / curvature[:, None] * 2.0 ** torch.tensor(_POWERS)
    every = data.repeated(len(_POWERS))
    weights = [weight.repeat_interleave(len(_POWERS), 0) for weight in initial]
    losses = []
    for step in range(steps + 1):
        leaves = [weight.requires_grad_() for weight in weights]
        loss = _loss(leaves, every, normalised)
        losses.append(loss.detach().view_as(rates))
        if step == steps:
            break
        gradients = torch.autograd.grad(loss.sum(), leaves)
        rate = rates.view(-1, 1, 1) * min(1.0, (step + 1) / warm_up) * (clip / _norm(gradients)).clamp(max=1.0)
        weights = [weight.detach() - rate * gradient for weight, gradient in zip(weights, gradients, strict=True)]
    last = (
        _curvature(weights, every, normalised, generator).view_as(rates) if look else torch.full_like(rates, math.nan)
    )
    return _Sweep(rates, torch.stack(losses), curvature, last * rates / 2)


def _mean(values: torch.Tensor) -> float:
    """Geometric."""
    return float(values.log().mean().exp())


def _peak(sweep: _Sweep, power: int) -> float:
    """Largest loss of the first steps over the first loss, at one rate, median over seeds."""
    column = _POWERS.index(power)
    peaks = sweep.losses[1 : _EARLY + 1, :, column].amax(0) / sweep.losses[0, :, column]
    return float(peaks.nan_to_num(_LARGEST).clamp(max=_LARGEST).median())


def _excess(sweep: _Sweep) -> tuple[float, float]:
    """Rate * curvature / 2 at the start and at the end, medians over trainings well past 1 that succeed."""
    past = _POWERS.index(_PAST)
    trained = sweep.trained[:, past:]
    if not bool(trained.any()):
        return math.nan, math.nan
    first = (sweep.rates * sweep.first[:, None] / 2)[:, past:]
    return float(first[trained].median()), float(sweep.last[:, past:][trained].median())


def _plan(settings: Settings, quick: bool) -> Plan:
    work = (settings["steps"] + settings["warm_up"]) / 200 * (settings["width"] / 32) * (1 if quick else 5)
    return Plan(runs=6, seconds=0.3 + 0.3 * work)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    seeds = 4 if quick else 16
    steps, warm_up = settings["warm_up"] + settings["steps"], settings["warm_up"]
    data = _drawn(seeds, generator)
    fair = _initial(seeds, settings["depth"], settings["width"], generator)
    poor = [settings["gain"] * weight for weight in fair]

    def sweep(
        initial: Weights, warm_up: int = 1, normalised: bool = False, clip: float = math.inf, look: bool = False
    ) -> _Sweep:
        found = _sweep(
            initial, data, generator, steps=steps, warm_up=warm_up, normalised=normalised, clip=clip, look=look
        )
        progress()
        return found

    constant, warm, brief = sweep(poor), sweep(poor, warm_up, look=True), sweep(poor, 2)
    clipped, normalised, better = sweep(poor, clip=_CLIP), sweep(poor, normalised=True), sweep(fair)
    limit = constant.limit()
    start, end = _excess(warm)
    return Outcome(
        measured={
            "calm_below": _peak(constant, -1),
            "curvature_sets_the_largest_rate": [_mean(found.limit() * found.first / 2) for found in (constant, better)],
            "warm_up_raises_the_largest_rate": _mean(warm.limit() / limit),
            "so_do_other_remedies": [_mean(found.limit() / limit) for found in (clipped, normalised, better)],
            "conditioning_lowers_curvature": [_mean(found.first / constant.first) for found in (normalised, better)],
            "warm_up_finds_flat_places": end,
        },
        controls={
            "far_above": _peak(constant, _FAR),
            "curvature_of_other_nets": _mean(limit * normalised.first / 2),
            "two_steps_of_warm_up": _mean(brief.limit() / limit),
            "where_it_started": start,
        },
        series={
            "rate_over_2_by_curvature": [2.0**power for power in _POWERS],
            "trained_share": constant.trained.double().mean(0).tolist(),
            "warm_trained_share": warm.trained.double().mean(0).tolist(),
        },
    )


study = Study(
    id="391",
    slug="loss-curvature",
    paper=Paper(
        title="A Loss Curvature Perspective on Training Instability in Deep Learning",
        authors=(
            "Justin Gilmer",
            "Behrooz Ghorbani",
            "Ankush Garg",
            "Sneha Kudugunta",
            "Behnam Neyshabur",
            "David Cardoze",
            "George Dahl",
            "Zachary Nado",
            "Orhan Firat",
        ),
        year=2021,
        url="https://arxiv.org/abs/2110.04369",
    ),
    summary="Warm-up, clipping, normalisation and better first weights let high rates train: all by lower curvature.",
    settings=(
        Setting(
            "gain",
            "float",
            3.0,
            "first weights over He's",
            2.0,
            4.0,
            reason="with less little is wrong with them, with more hardly any constant rate trains",
        ),
        Setting("depth", "int", 2, "hidden layers", 2, 3, reason="with one first weights matter less, 4 rarely train"),
        Setting("width", "int", 32, "units of a hidden layer", 24, 64, reason="narrower nets may train at no rate"),
        Setting("warm_up", "int", 100, "steps of warm-up", 50, 200),
        Setting("steps", "int", 100, "further steps", 40, 160),
    ),
    statements=(
        Statement(
            "calm_below",
            "at_most",
            1.0,
            "At half of 2 / curvature: largest loss of the first steps over the first loss, in the median net.",
        ),
        Statement(
            "curvature_sets_the_largest_rate",
            "interval",
            (1.0, 32.0),
            "Largest constant rate that trains, over 2 / curvature at the start: poor and better first weights.",
        ),
        Statement(
            "warm_up_raises_the_largest_rate",
            "at_least",
            1.9,
            "Factor that warm-up gains in that rate, poor first weights.",
        ),
        Statement(
            "so_do_other_remedies",
            "at_least",
            1.9,
            "The factor that clipped gradients, layer normalisation, and better first weights gain.",
        ),
        Statement(
            "conditioning_lowers_curvature",
            "at_most",
            0.5,
            "Curvature at the start over that of the poor nets: layer normalisation, better first weights.",
        ),
        Statement(
            "warm_up_finds_flat_places",
            "at_most",
            1.0,
            "Rate * curvature / 2 at the end, median of warmed-up trainings at 4 times 2 / first curvature or more.",
            tolerance=0.1,
        ),
    ),
    controls=(
        Control("far_above", "calm_below", "The rate is 256 times 2 / curvature."),
        Control(
            "curvature_of_other_nets",
            "curvature_sets_the_largest_rate",
            "The curvature of the nets with layer normalisation, for the rate of those without.",
        ),
        Control("two_steps_of_warm_up", "warm_up_raises_the_largest_rate", "Warm-up ends after two steps."),
        Control("where_it_started", "warm_up_finds_flat_places", "The curvature of the first weights."),
    ),
    plan=_plan,
    run=_run,
    smoke={"warm_up": 80, "steps": 50, "width": 24},
)
