"""SVCCA: canonical correlations compare layers across time and nets; layers settle bottom up, and can be frozen so.

ReLU nets of three hidden layers on handwritten digits, trained by Adam with a rate that falls linearly to zero. All
copies are one batched program; every similarity compares activations of the same training images.

Three of the paper's words are narrowed. Only correlations between all directions (CCA) are invariant to every
invertible affine map: which directions hold the variance that SVCCA keeps depends on their scale. The order of layers
between the first and the last is not claimed, since neighbours arrive within the noise of each other. And freezing
saves work at a small cost in accuracy; that it overfits less was not found on digits.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from separatrix.probes._similarity import svcca
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
from separatrix.tasks.digits import Digits
from separatrix.tasks.task import Batch

_DEPTH = 3
_ENDS = (0, _DEPTH - 1)
_CLASSES = 10
_VARIANCE = 0.99
_SIMILAR = 0.9
_COMPARED = 600
_LOOKS = 12
_LENGTH = 1.0  # steps times learning rate: enough for Adam to fit the images
_FREEZING = (0.4, 0.6, 0.8)

Tensors = list[torch.Tensor]


@dataclasses.dataclass(frozen=True)
class _Trained:
    """Weight (copies, inputs, outputs) and bias (copies, 1, outputs) of each layer in turn, after training.

    `snapshots` hold the hidden layers, each (copies, examples, width), at `times`, shares of the training.
    """

    layers: Tensors
    times: list[float]
    snapshots: list[Tensors]


def _initial(copies: int, width: int, generator: torch.Generator) -> Tensors:
    layers = []
    for inputs, outputs in itertools.pairwise([64, *[width] * _DEPTH, _CLASSES]):
        weight = torch.randn(copies, inputs, outputs, dtype=torch.float64, generator=generator)
        layers += [math.sqrt(2.0 / inputs) * weight, torch.zeros(copies, 1, outputs, dtype=torch.float64)]
    return layers


def _hidden(layers: Tensors, signal: torch.Tensor) -> Tensors:
    """The hidden layers, each (copies, examples, width), of inputs (examples, 64) or (copies, examples, 64)."""
    found = []
    for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
        signal = torch.relu(signal @ weight + bias)
        found.append(signal)
    return found


def _logits(layers: Tensors, last: torch.Tensor) -> torch.Tensor:
    return last @ layers[-2] + layers[-1]


def _gradients(layers: Tensors, rows: torch.Tensor, labels: torch.Tensor, live: Sequence[int]) -> Tensors:
    """Gradients of every copy's mean loss on rows (copies, batch, 64) for the tensors that are `live`."""
    leaves = [part.detach().requires_grad_(index in live) for index, part in enumerate(layers)]
    outputs = _logits(leaves, _hidden(leaves, rows)[-1])
    loss = functional.cross_entropy(outputs.flatten(0, 1), labels.flatten()) * len(rows)
    return list(torch.autograd.grad(loss, [leaves[index] for index in live]))


def _train(layers: Tensors, images: Batch, settings: Settings, seed: int, freezing: Sequence[float] = ()) -> _Trained:
    """Train all copies, from batches of their own; hidden layer i is kept as it is from share freezing[i] on."""
    inputs, labels = images.inputs, images.targets
    copies, steps = len(layers[0]), round(_LENGTH / settings["learning_rate"])
    generator = torch.Generator().manual_seed(seed + 1)
    looks = list(dict.fromkeys(round(steps * (look / _LOOKS) ** 2) for look in range(_LOOKS + 1)))
    mean, square = ([torch.zeros_like(part) for part in layers] for _ in range(2))
    layers, snapshots = list(layers), []
    for step in range(steps + 1):
        if step in looks:
            snapshots.append(_hidden(layers, inputs[:_COMPARED]))
        if step == steps:
            break
        rows = torch.randint(len(inputs), (copies, settings["batch_size"]), generator=generator)
        live = range(2 * sum(step >= share * steps for share in freezing), len(layers))
        rate = settings["learning_rate"] * (1.0 - step / steps)
        for index, gradient in zip(live, _gradients(layers, inputs[rows], labels[rows], live), strict=True):
            mean[index] = torch.lerp(mean[index], gradient, 0.1)
            square[index] = torch.lerp(square[index], gradient.square(), 0.001)
            spread = (square[index] / (1.0 - 0.999 ** (step + 1))).sqrt() + 1e-8
            layers[index] = layers[index] - rate * mean[index] / (1.0 - 0.9 ** (step + 1)) / spread
    return _Trained(layers, [look / steps for look in looks], snapshots)


def _accuracy(layers: Tensors, last: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Share of the labels that each copy tells from its last hidden layer, (copies,)."""
    return (_logits(layers, last).argmax(2) == labels).double().mean(1)


def _similarities(trained: _Trained, order: torch.Tensor | slice = slice(None)) -> torch.Tensor:
    """SVCCA of the first and the last hidden layer with their final selves, (times, 2, copies).

    `order` turns the examples of the final selves.
    """
    final = [trained.snapshots[-1][layer][:, order] for layer in _ENDS]
    values = [
        [
            [float(svcca(x, y, variance=_VARIANCE).mean) for x, y in zip(layers[layer], end, strict=True)]
            for layer, end in zip(_ENDS, final, strict=True)
        ]
        for layers in trained.snapshots
    ]
    return torch.tensor(values, dtype=torch.float64)


def _arrival(times: Sequence[float], similarities: torch.Tensor) -> list[float]:
    """Share of the training after which each layer is `_SIMILAR` to its final self, mean over copies."""
    when = torch.tensor(times, dtype=torch.float64)
    arrived = (similarities >= _SIMILAR).double()
    first = arrived.argmax(0)
    before = (first - 1).clamp(min=0)
    low, high = (similarities.gather(0, index[None])[0] for index in (before, first))
    part = ((_SIMILAR - low) / (high - low)).where(first > 0, 0.0)
    share = (when[before] + part * (when[first] - when[before])).where(arrived.any(0), 1.0)
    return share.mean(1).tolist()


def _mapped(layers: Tensors, generator: torch.Generator, stretch: float) -> Tensors:
    """Layers under random maps: rotated, columns scaled by 1 to `stretch`, rotated, and shifted."""
    mapped = []
    for layer in layers:
        width = layer.shape[2]
        rotations = torch.linalg.qr(torch.randn(2, width, width, dtype=torch.float64, generator=generator)).Q
        scales = torch.linspace(0.0, math.log(stretch), width, dtype=torch.float64).exp()
        shift = torch.randn(width, dtype=torch.float64, generator=generator)
        mapped.append(layer @ (rotations[0] * scales) @ rotations[1] + shift)
    return mapped


def _change(layers: Tensors, others: Tensors, mapped: Tensors, variance: float) -> float:
    """Largest change of the similarity to the other net's layer when a layer is mapped."""
    return max(
        abs(float(svcca(image[0], other[0], variance=variance).mean - svcca(x[0], other[0], variance=variance).mean))
        for x, other, image in zip(layers, others, mapped, strict=True)
    )


def _shared_directions(x: torch.Tensor, y: torch.Tensor, count: int) -> torch.Tensor:
    """Orthonormal basis (width, count) of the directions of x (n, width) that correlate most with y."""
    u, s, vt = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    kept = svcca(x, y, variance=_VARIANCE)
    w = torch.linalg.svd(y - y.mean(0), full_matrices=False).U[:, : kept.rank_y]
    turn = torch.linalg.svd(u[:, : kept.rank_x].T @ w).U[:, :count]
    basis: torch.Tensor = torch.linalg.qr(vt[: kept.rank_x].T @ (turn / s[: kept.rank_x, None])).Q
    return basis


def _retained(trained: _Trained, images: Batch, bases: torch.Tensor) -> float:
    """Accuracy with the last hidden layer cut down to bases (copies, width, count), over that without the cut."""
    last = _hidden(trained.layers, images.inputs)[-1]
    centre = trained.snapshots[-1][-1].mean(1, keepdim=True)
    cut = centre + (last - centre) @ bases @ bases.mT
    whole, part = (_accuracy(trained.layers, kept, images.targets) for kept in (last, cut))
    return float(part.mean() / whole.mean())


def _label_correlation(layers: Tensors, labels: torch.Tensor) -> list[float]:
    """SVCCA of the first and the last of the hidden layers with one-hot labels (examples,), mean over copies."""
    wanted = functional.one_hot(labels, _CLASSES).double()
    return [
        float(torch.stack([svcca(x, wanted, variance=_VARIANCE).mean for x in layers[layer]]).mean()) for layer in _ENDS
    ]


def _saving(layers: Tensors, images: Batch, settings: Settings, upwards: bool = True) -> float:
    """Share of a training's multiplications that freezing the hidden layers in turn saves, from the bottom or the top.

    Multiplications of one step, forward and backward, are counted as they are carried out.
    """
    rows = torch.arange(settings["batch_size"]).expand(len(layers[0]), -1)
    order = range(_DEPTH) if upwards else range(_DEPTH)[::-1]
    work = []
    for count in range(_DEPTH + 1):
        live = [index for index in range(len(layers)) if index // 2 not in order[:count]]
        with FlopCounterMode(display=False) as counter:
            _gradients(layers, images.inputs[rows], images.targets[rows], live)
        work.append(counter.get_total_flops())
    lasting = [b - a for a, b in itertools.pairwise((0.0, *_FREEZING, 1.0))]
    return float(1.0 - sum(part * flops for part, flops in zip(lasting, work, strict=True)) / work[0])


def _rank_share(layers: Tensors) -> float:
    """Largest share of a layer's directions that hold `_VARIANCE` of its variance, over layers and copies."""
    return max(float(svcca(x, x, variance=_VARIANCE).rank_x / x.shape[1]) for layer in layers for x in layer)


def _plan(settings: Settings, quick: bool) -> Plan:
    steps = _LENGTH / settings["learning_rate"]
    work = 1e-3 + 1.5e-8 * settings["width"] * (settings["batch_size"] + settings["width"])
    return Plan(runs=3, seconds=(1 if quick else 4) * (1.0 + 0.01 * settings["width"] + 6.0 * steps * work))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    copies, width = 3 if quick else 12, settings["width"]
    generator = torch.Generator().manual_seed(seed)
    images, fresh = (
        Batch(part.inputs.flatten(1).double(), part.targets) for part in Digits(seed=seed, test_share=0.4).load()
    )
    start = _initial(copies, width, generator)
    trainings = []
    for freezing in ((), _FREEZING, (0.0,) * _DEPTH):
        trainings.append(_train(start, images, settings, seed, freezing))
        progress()
    whole, frozen, unlearned = trainings

    def correct(trained: _Trained) -> float:
        last = _hidden(trained.layers, fresh.inputs)[-1]
        return float(_accuracy(trained.layers, last, fresh.targets).mean())

    first, final, labels = whole.snapshots[0], whole.snapshots[-1], images.targets[:_COMPARED]
    order = torch.randperm(_COMPARED, generator=generator)
    similar, mismatched = _similarities(whole), _similarities(whole, order)
    one, other = ([layer[index : index + 1] for layer in final] for index in (0, 1))
    turned, stretched = (_mapped(one, generator, stretch) for stretch in (1.0, 30.0))
    last = final[-1]
    shared = torch.stack([_shared_directions(x, y, _CLASSES) for x, y in zip(last, last.roll(1, 0), strict=True)])
    drawn = torch.linalg.qr(torch.randn(copies, width, _CLASSES, dtype=torch.float64, generator=generator)).Q
    noise = torch.randn(last.shape, dtype=torch.float64, generator=generator)
    return Outcome(
        measured={
            "cca_ignores_affine_maps": _change(one, other, stretched, 1.0),
            "svcca_ignores_rotation_and_shift": _change(one, other, turned, _VARIANCE),
            "few_directions_hold_the_variance": _rank_share(final[1:]),
            "shared_directions_suffice": _retained(whole, fresh, shared),
            "layers_arrive_bottom_up": _arrival(whole.times, similar),
            "labels_show_with_depth": _label_correlation(final, labels),
            "freezing_keeps_accuracy": correct(whole) - correct(frozen),
            "freezing_saves_work": _saving(start, images, settings),
        },
        controls={
            "svcca_under_affine_maps": _change(one, other, stretched, _VARIANCE),
            "noise_as_activations": _rank_share([noise]),
            "drawn_directions": _retained(whole, fresh, drawn),
            "examples_out_of_order": _arrival(whole.times, mismatched),
            "before_training": _label_correlation(first, labels),
            "never_trained": correct(whole) - correct(unlearned),
            "freezing_top_down": _saving(start, images, settings, upwards=False),
        },
        series={
            "time": whole.times,
            "first_layer_similarity": similar[:, 0].mean(1).tolist(),
            "last_layer_similarity": similar[:, 1].mean(1).tolist(),
            "test_accuracy": [correct(trained) for trained in trainings],
        },
    )


study = Study(
    id="458",
    slug="canonical-correlations",
    paper=Paper(
        title="SVCCA: Singular Vector Canonical Correlation Analysis for Deep Learning Dynamics and Interpretability",
        authors=("Maithra Raghu", "Justin Gilmer", "Jason Yosinski", "Jascha Sohl-Dickstein"),
        year=2017,
        url="https://arxiv.org/abs/1706.05806",
    ),
    summary="Layers reach their final representations from the bottom up, in few directions, and can be frozen so.",
    settings=(
        Setting("width", "int", 64, "units of each of three hidden layers", 32, 128),
        Setting("learning_rate", "float", 1e-3, "first learning rate of Adam; steps are its inverse", 5e-4, 2e-3),
        Setting("batch_size", "int", 32, "images in a batch", 16, 64),
    ),
    statements=(
        Statement(
            "cca_ignores_affine_maps",
            "at_most",
            1e-6,
            "Change of CCA with another net's layer when a layer goes through an invertible affine map.",
        ),
        Statement(
            "svcca_ignores_rotation_and_shift",
            "at_most",
            1e-6,
            "The same change of SVCCA, under rotations and shifts.",
        ),
        Statement(
            "few_directions_hold_the_variance",
            "at_most",
            0.7,
            "Share of their directions in which the upper two layers hold 99 % of their variance, largest.",
        ),
        Statement(
            "shared_directions_suffice",
            "at_least",
            0.8,
            "Test accuracy kept when the last layer is cut down to the 10 directions most shared with another net.",
        ),
        Statement(
            "layers_arrive_bottom_up",
            "monotone",
            "increasing",
            "Share of the training until SVCCA with its final self is 0.9, for the first and the last hidden layer.",
        ),
        Statement(
            "labels_show_with_depth",
            "monotone",
            "increasing",
            "SVCCA with the labels after training, of the first and the last hidden layer.",
        ),
        Statement(
            "freezing_keeps_accuracy",
            "at_most",
            0.03,
            "Test accuracy lost when hidden layers are frozen in turn, after 0.4, 0.6 and 0.8 of the training.",
        ),
        Statement(
            "freezing_saves_work",
            "at_least",
            0.24,
            "Share of the training's multiplications which that saves.",
        ),
    ),
    controls=(
        Control("svcca_under_affine_maps", "cca_ignores_affine_maps", "SVCCA instead, which cuts off by scale."),
        Control("noise_as_activations", "few_directions_hold_the_variance", "Independent normal numbers instead."),
        Control("drawn_directions", "shared_directions_suffice", "10 directions drawn at random."),
        Control(
            "examples_out_of_order", "layers_arrive_bottom_up", "The final selves see the images in a different order."
        ),
        Control("before_training", "labels_show_with_depth", "The same layers before training."),
        Control("never_trained", "freezing_keeps_accuracy", "All hidden layers are frozen from the start."),
        Control("freezing_top_down", "freezing_saves_work", "Frozen from the top, where gradients still pass through."),
    ),
    plan=_plan,
    run=_run,
    smoke={"width": 32, "learning_rate": 2e-3, "batch_size": 32},
)
