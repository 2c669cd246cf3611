"""Scaling exponents: how parameters align with what they act on, the learning rates this asks for, and Adam's epsilon.

Perceptrons with two hidden layers classify digits at widths a factor 16 apart, trained by Adam at rates a factor 2
apart. Alignment is how fast, in the width n, the root mean square of z W grows over that of z times that of W: as n^0.5
where W knows nothing of z, as n^1 where they are aligned. Measured are the three parts of what a layer does after
training, (z + dz) (W + dW): z dW, dz W and dz dW, in the hidden and in the last layer; z are activations at the start.

The paper's tables are of three optimizers and models up to 26.8 billion parameters; here Adam decides. Full runs have
the best rates of five parametrizations under Adam and SGD in their series; Adafactor is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from separatrix.steer.optim import AdamAtan2
from separatrix.studies._wide_nets import (
    CLASSES,
    INPUTS,
    Data,
    best_rate,
    digits,
    drawn,
    factors,
    layers,
    train,
)
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

_TIMES = (1, 4, 16)  # the narrowest width
_POWERS = {"adam": range(-9, -1), "sgd": range(-6, 5)}  # of two, the rates of the narrowest net
_BATCH = 32
_DECISIVE = ("standard", "standard-per-layer")
_TABLE = (*_DECISIVE, "neural-tangent", "maximal-update", "mean-field")
_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
_MEASURED = 2.0**-6  # rate of the narrowest net whose alignment is measured
_SCALE = 2.0**-40


def _losses(width: int, base: int, rule: str, kind: str, data: Data, copies: int, steps: int, seed: int) -> Tensor:
    """Mean loss of the last fifth of training by rate, (rates,)."""
    scales = factors(width, base, rule, _OPTIMIZERS[kind])
    generator = torch.Generator().manual_seed(seed)
    rates = torch.tensor([2.0**power for power in _POWERS[kind]])
    weights = [weight.repeat(len(rates), 1, 1) for weight in drawn(width, scales, copies, generator)]
    _, losses = train(
        weights,
        rates.repeat_interleave(copies),
        scales,
        data,
        steps=steps,
        batch=_BATCH,
        generator=generator,
        adaptive=kind == "adam",
    )
    return losses[-steps // 5 :].mean(0).view(len(rates), copies).mean(1)


def _best(base: int, rule: str, kind: str, data: Data, copies: int, steps: int, seed: int) -> list[float]:
    """log2 of the best rate for each width."""
    rates = torch.tensor([2.0**power for power in _POWERS[kind]])
    widths = [base * times for times in _TIMES]
    return [best_rate(rates, _losses(width, base, rule, kind, data, copies, steps, seed)) for width in widths]


def _spread(best: Sequence[float]) -> float:
    """By how many factors of 2 the best rates of any two widths differ."""
    return max(best) - min(best)


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _growth(inputs: Tensor, weight: Tensor) -> float:
    """Root mean square of inputs times weight, over those of both."""
    return _root_mean_square(inputs @ weight) / (_root_mean_square(inputs) * _root_mean_square(weight))


def _alignments(width: int, base: int, data: Data, copies: int, steps: int, seed: int) -> dict[str, float]:
    """The growth of every product in the hidden and in the last layer, after training at rates by layer."""
    scales = factors(width, base, "standard-per-layer", torch.optim.Adam)
    generator = torch.Generator().manual_seed(seed)
    start = drawn(width, scales, copies, generator)
    rates = torch.full((copies,), _MEASURED)
    end, _ = train(start, rates, scales, data, steps=steps, batch=_BATCH, generator=generator)
    before, after = (layers(weights, data.inputs[:512]) for weights in (start, end))
    found = {}
    for name, index in (("hidden", 1), ("last", 2)):
        old, change = start[index], end[index] - start[index]
        moved = after[index] - before[index]
        found[f"{name} start"] = _growth(before[index], old)
        found[f"{name} z dW"] = _growth(before[index], change)
        found[f"{name} dz W"] = _growth(moved, old)
        found[f"{name} dz dW"] = _growth(moved, change)
        found[f"{name} size of dW"] = _root_mean_square(change)
    return found


def _slope(widths: Sequence[int], values: Sequence[float]) -> float:
    x, y = torch.tensor(widths).double().log(), torch.tensor(values).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def _moved(kind: type[torch.optim.Optimizer], scale: float, data: Data, seed: int) -> Tensor:
    """Change of all weights of a small net after 20 steps on the loss times `scale`, in float64."""
    generator = torch.Generator().manual_seed(seed)
    width = 32
    shapes = ((INPUTS, width), (width, CLASSES))
    start = [torch.randn(*shape, generator=generator, dtype=torch.float64) / math.sqrt(shape[0]) for shape in shapes]
    weights = [torch.nn.Parameter(weight.clone()) for weight in start]
    optimizer = kind(weights, lr=1e-2)  # type: ignore[call-arg]
    inputs, classes = data.inputs[:64].double(), data.classes[:64]
    for _ in range(20):
        optimizer.zero_grad()
        loss = functional.cross_entropy(torch.relu(inputs @ weights[0]) @ weights[1], classes)
        torch.autograd.backward(scale * loss)
        optimizer.step()
    return torch.cat([(new.detach() - old).flatten() for new, old in zip(weights, start, strict=True)])


def _sizes(settings: Settings, quick: bool) -> tuple[int, int, int]:
    """Narrowest width, copies, steps."""
    return (settings["narrowest"], 2, 80) if quick else (settings["narrowest"], 4, 300)


def _plan(settings: Settings, quick: bool) -> Plan:
    work = (settings["narrowest"] / 16) ** 1.7
    return Plan(runs=(len(_DECISIVE) if quick else 2 * len(_TABLE)) + 2, seconds=(0.8 if quick else 60.0) * work)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    base, copies, steps = _sizes(settings, quick)
    data, best = digits(seed), {}
    for kind in ("adam",) if quick else ("adam", "sgd"):
        for rule in _DECISIVE if quick else _TABLE:
            best[kind, rule] = _best(base, rule, kind, data, copies, steps, seed)
            progress()
    widths = [base * times for times in _TIMES]
    found = [_alignments(width, base, data, 4 if quick else 16, steps, seed) for width in widths]
    slopes = {name: _slope(widths, [each[name] for each in found]) for name in found[0]}
    progress()
    parts = [f"{layer} {part}" for layer in ("hidden", "last") for part in ("z dW", "dz W", "dz dW")]
    paths = {
        (kind, scale): _moved(optimizer, scale, data, seed)
        for kind, optimizer in (("adam", torch.optim.Adam), ("atan2", AdamAtan2))
        for scale in (1.0, _SCALE)
    }
    progress()
    shares = {kind: float(paths[kind, _SCALE].norm() / paths[kind, 1.0].norm()) for kind in ("adam", "atan2")}
    gaps = {kind: float((paths[kind, _SCALE] - paths[kind, 1.0]).abs().max()) for kind in ("adam", "atan2")}
    return Outcome(
        measured={
            "alignment_from_half_to_one": [slopes[part] for part in parts],
            "none_at_the_start": [slopes["hidden start"], slopes["last start"]],
            "per_layer_rates_transfer": _spread(best["adam", "standard-per-layer"]),
            "atan2_ignores_the_scale": gaps["atan2"],
            "adam_stalls": shares["adam"],
        },
        controls={
            "without_the_size_of_weights": [
                slopes[f"{layer} z dW"] + slopes[f"{layer} size of dW"] for layer in ("hidden", "last")
            ],
            "after_training": [slopes["hidden z dW"], slopes["last z dW"]],
            "one_rate_for_all": _spread(best["adam", "standard"]),
            "adam_sees_the_scale": gaps["adam"],
            "atan2_does_not_stall": shares["atan2"],
        },
        series={
            "width": widths,
            **{f"{kind}_{rule}_log2_best_rate": values for (kind, rule), values in best.items()},
            **{name.replace(" ", "_"): [each[name] for each in found] for name in slopes},
        },
    )


study = Study(
    id="146",
    slug="scaling-exponents",
    paper=Paper(
        title="Scaling Exponents Across Parameterizations and Optimizers",
        authors=(
            "Katie Everett",
            "Lechao Xiao",
            "Mitchell Wortsman",
            "Alexander A. Alemi",
            "Roman Novak",
            "Peter J. Liu",
            "Izzeddin Gur",
            "Jascha Sohl-Dickstein",
            "Leslie Pack Kaelbling",
            "Jaehoon Lee",
            "Jeffrey Pennington",
        ),
        year=2024,
        url="https://arxiv.org/abs/2407.05872",
    ),
    summary="With rates by layer the standard parametrization transfers; Adam-atan2 does not see the gradients' scale.",
    settings=(
        Setting(
            "narrowest", "int", 16, "narrowest width; the others are 4 and 16 times it, all twice that in full", 8, 32
        ),
    ),
    statements=(
        Statement(
            "alignment_from_half_to_one",
            "interval",
            (0.5, 1.0),
            "Exponents of alignment in the width of z dW, dz W and dz dW, hidden layer, then last; a fit to three"
            " widths of few nets errs by about 0.1.",
            tolerance=0.1,
        ),
        Statement(
            "none_at_the_start",
            "equal",
            0.5,
            "Exponents of z W before training, hidden layer, then last.",
            tolerance=0.1,
        ),
        Statement(
            "per_layer_rates_transfer",
            "at_most",
            1.0,
            "Spread of the best rate over widths a factor 16 apart, in factors of 2, with rates by layer.",
        ),
        Statement(
            "atan2_ignores_the_scale",
            "equal",
            0.0,
            "Largest difference of any weight after training by Adam-atan2 on the loss times 2^-40.",
        ),
        Statement("adam_stalls", "at_most", 0.05, "How far weights get by Adam on that loss, over how far without."),
    ),
    controls=(
        Control("without_the_size_of_weights", "alignment_from_half_to_one", "Growth of z dW over z alone."),
        Control("after_training", "none_at_the_start", "The exponents of z dW."),
        Control("one_rate_for_all", "per_layer_rates_transfer", "The standard parametrization with one rate."),
        Control("adam_sees_the_scale", "atan2_ignores_the_scale", "Adam."),
        Control("atan2_does_not_stall", "adam_stalls", "Adam-atan2."),
    ),
    plan=_plan,
    run=_run,
    smoke={"narrowest": 16},
)
