"""Neural collapse: where decay and loss leave features and a deep linear net upon them, to the last length.

Free features h and M linear layers upon them descend the mean loss of N examples plus decay / 2 times the sum of all
squared weights and the mean squared length of h. At a global minimum classes sit on their means, singular vectors of
the layers meet, and every layer shares the cost of a mode equally: a class of share q = n / N whose output has length p
needs the squared singular value s^2 = (q p^2)^(1 / (M + 1)) in each layer, |h|^2 = s^2 / q, and pays
(M + 1) / 2 decay s^2. What is left is one equation in p a class. For squares without bias it reads
(1 - p) p^((M - 1) / (M + 1)) = decay q^(-M / (M + 1)). Its left side has a maximum: rarer classes have output 0.
With cross-entropy and K balanced classes K - 1 equal modes minimise
log(1 + (K - 1) e^-p) + (K - 1) (M + 1) / 2 decay (p^2 / K)^(1 / (M + 1)), a simplex. The paper says that this is the
global minimum at any depth; from two layers on it is not. Pair the classes, give each pair a direction of its own and
its two classes opposite signs: K / 2 modes of length p do, at the cost
log(1 + e^-p + (K - 2) e^(-p / 2)) + K / 2 (M + 1) / 2 decay (p^2 / K)^(1 / (M + 1)), less with three layers and
four classes or more. The simplex is therefore claimed for one layer, and that the pairs are cheaper for three.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from separatrix.probes._collapse import class_means
from separatrix.studies._collapse_lengths import (
    entropy_decay,
    entropy_length,
    pairs_cost,
    simplex_cost,
    squared_length,
    vanishing_decay,
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

_RATE = 0.1
_MOMENTUM = 0.9
_STILL = 1e-9  # largest move of a weight in a step at which descent has ended
_LIMIT = 20000
_RARE = 2  # examples of the smallest classes
_PRESSURE = 1.4  # decay that makes a class vanish, over the least that does
_DIGITS = 500
_NET_DECAY = 2e-3
_CHECKS = (10, 100, 1000)

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From outputs (n, classes) and labels (n,) to the mean loss."""


def squared_loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Half the squared distance from one-hot labels, mean over examples."""
    return (outputs - functional.one_hot(labels, outputs.shape[1])).square().sum(1).mean() / 2


def _pairs_over_simplex(share: float, classes: int, layers: int) -> float:
    decay = share * entropy_decay(classes, layers)
    return pairs_cost(decay, classes, layers) / simplex_cost(decay, classes, layers)


@dataclasses.dataclass(frozen=True)
class _State:
    """Features (n, d) of labels (n,), and linear layers upon them, the first (d, d), the last (classes, d)."""

    features: torch.Tensor
    labels: torch.Tensor
    layers: Sequence[torch.Tensor]

    def levels(self) -> list[torch.Tensor]:
        """Features before each layer, (n, d)."""
        levels = [self.features]
        for layer in self.layers[:-1]:
            levels.append(levels[-1] @ layer.T)
        return levels

    def tops(self) -> list[torch.Tensor]:
        """Product of the layers from each one upwards, (classes, d)."""
        tops = [self.layers[-1]]
        for layer in self.layers[-2::-1]:
            tops.insert(0, tops[0] @ layer)
        return tops

    def of(self, kept: torch.Tensor) -> _State:
        """The same for the examples and outputs of the classes `kept`, whose labels become 0, 1, ..."""
        chosen = torch.isin(self.labels, kept)
        labels = torch.searchsorted(kept, self.labels[chosen])
        return _State(self.features[chosen], labels, [*self.layers[:-1], self.layers[-1][kept]])


def _descend(
    loss: Loss, counts: Sequence[int], width: int, layers: int, decay: float, generator: torch.Generator
) -> _State:
    """Gradient descent with momentum from orthogonal layers and normal features, to where nothing moves.

    The step of a feature is N times that of the layers, since its loss is a share 1 / N of all.
    """
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    features = (normal(len(labels), width) / math.sqrt(width)).requires_grad_()
    stack = [torch.linalg.qr(normal(width, width))[0] for _ in range(layers)]
    stack[-1] = stack[-1][: len(counts)]
    weights = [layer.clone().requires_grad_() for layer in stack]
    leaves = [features, *weights]
    speeds = [torch.zeros_like(leaf) for leaf in leaves]
    scales = [float(len(labels)), *[1.0] * layers]
    for _ in range(_LIMIT):
        state = _State(features, labels, weights)
        value = loss(state.levels()[-1] @ weights[-1].T, labels)
        value = value + decay / 2 * features.square().sum() / len(labels)
        value = value + decay / 2 * torch.stack([weight.square().sum() for weight in weights]).sum()
        gradients = torch.autograd.grad(value, leaves)
        with torch.no_grad():
            for leaf, speed, gradient, scale in zip(leaves, speeds, gradients, scales, strict=True):
                speed.mul_(_MOMENTUM).sub_(gradient, alpha=_RATE * scale)
                leaf.add_(speed)
        if max(float(speed.abs().max()) for speed in speeds) <= _STILL:
            break
    return _State(features.detach(), labels, [weight.detach() for weight in weights])


def _means(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return class_means(features, labels).means


def _spread(features: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean squared distance of examples from the mean of their class, over the mean square of these means.

    NC1 asks the same, but leaves out directions in which the means do not differ.
    """
    classes = class_means(features, labels)
    return float(classes.residuals.square().sum(1).mean() / classes.means[classes.members].square().sum(1).mean())


def _variability(state: _State) -> float:
    return max(_spread(level, state.labels) for level in state.levels())


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Distance of two matrices, each divided by its norm."""
    return float((one / one.norm() - other / other.norm()).norm())


def _frame_distance(state: _State, frame: torch.Tensor) -> float:
    """Largest distance of the Gram of class means from a frame, of all levels; both with rows of length 1."""
    means = [functional.normalize(_means(level, state.labels), dim=1) for level in state.levels()]
    return max(_apart(unit @ unit.T, frame) for unit in means)


def _duality(state: _State, order: torch.Tensor | None = None) -> float:
    """Largest distance, of all levels, of the directions of class means from those of the net above, by class."""
    pairs = zip(state.levels(), state.tops(), strict=True)
    return max(
        _apart(
            functional.normalize(_means(level, state.labels), dim=1),
            functional.normalize(top if order is None else top[order], dim=1),
        )
        for level, top in pairs
    )


def _length_error(state: _State, outputs: Sequence[float], shares: Sequence[float], centred: bool = False) -> float:
    """Largest relative error of the predicted length of a class's mean, of classes and levels.

    `outputs` are the lengths p of their modes. A vertex of a centred simplex of K classes has the part
    sqrt(1 - 1 / K) of its modes' length.
    """
    depth = len(state.layers)
    worst = 0.0
    for index, level in enumerate(state.levels()):
        for found, length, share in zip(_means(level, state.labels).norm(dim=1), outputs, shares, strict=True):
            square = (share * length**2) ** (1 / (depth + 1))
            expected = math.sqrt(square ** (index + 1) / share)
            expected *= math.sqrt(1 - 1 / len(outputs)) if centred else 1.0
            worst = max(worst, abs(float(found) / expected - 1))
    return worst


def _vanished(state: _State, rare: torch.Tensor) -> float:
    """Largest length of the output for a mean of the `rare` classes."""
    means = _means(state.features, state.labels)[rare]
    return float((means @ state.tops()[0].T).norm(dim=1).max())


def _net(width: int, generator: torch.Generator) -> list[float]:
    """Spread of the last features of a ReLU net that learns digits with squared loss and decay, at `_CHECKS` steps.

    It is told over the distances of class means from their own mean: what all features of a ReLU net share is most of
    them at first, and a ratio to the means themselves once rose, from 0.100 to 0.133 between steps 10 and 100.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    chosen = torch.randperm(len(data.target), generator=generator)[:_DIGITS]
    inputs, labels = torch.tensor(data.data / 16.0)[chosen], torch.tensor(data.target)[chosen].long()
    sizes = [inputs.shape[1], 4 * width, 4 * width, 10]
    weights = [
        (torch.randn(after, before, dtype=torch.float64, generator=generator) * math.sqrt(2 / before)).requires_grad_()
        for before, after in itertools.pairwise(sizes)
    ]
    optimizer = torch.optim.SGD(weights, lr=0.05, momentum=_MOMENTUM, weight_decay=_NET_DECAY)
    found = []
    for step in range(_CHECKS[-1] + 1):
        features = functional.relu(functional.relu(inputs @ weights[0].T) @ weights[1].T)
        if step in _CHECKS:
            classes = class_means(features.detach(), labels)
            between = classes.centred[classes.members].square().sum(1).mean()
            found.append(float(classes.residuals.square().sum(1).mean() / between))
        optimizer.zero_grad()
        squared_loss(features @ weights[2].T, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return found


def _plan(settings: Settings, quick: bool) -> Plan:
    return Plan(runs=6, seconds=(0.5 + 0.5 * settings["layers"]) * (1 if quick else 2))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    classes, layers = settings["classes"], settings["layers"]
    width = classes * settings["width_factor"]
    examples = settings["examples"] if quick else 2 * settings["examples"]

    def descend(loss: Loss, counts: Sequence[int], decay: float, layers: int = layers) -> _State:
        state = _descend(loss, counts, width, layers, decay, generator)
        progress()
        return state

    level, flat = [examples] * classes, [1 / classes] * classes
    squared_decay = settings["decay"] * vanishing_decay(1 / classes, layers)
    squared = descend(squared_loss, level, squared_decay)
    entropy_rate = settings["decay"] * entropy_decay(classes, 1)
    entropy = descend(functional.cross_entropy, level, entropy_rate, 1)
    free = descend(squared_loss, level, 0.0)

    sizes = [_RARE, round(_RARE * settings["imbalance"] ** 0.75), round(_RARE * settings["imbalance"])]
    counts = [sizes[index % 3] for index in range(classes)]
    shares = [count / sum(counts) for count in counts]
    heavy = _PRESSURE * vanishing_decay(shares[0], layers)
    lengths = [squared_length(heavy, share, layers) for share in shares]
    rare = torch.tensor([index for index in range(classes) if lengths[index] == 0.0])
    kept = torch.tensor([index for index in range(classes) if lengths[index] > 0.0])
    uneven = descend(squared_loss, counts, heavy)
    seen = uneven.of(kept)
    light = descend(squared_loss, counts, heavy / 8)

    orthogonal = torch.eye(classes, dtype=torch.float64)
    simplex = orthogonal - 1 / classes
    left = orthogonal[: len(kept), : len(kept)]
    length = squared_length(squared_decay, 1 / classes, layers)
    logits = entropy_length(entropy_rate, classes, 1)
    even_classes = max(4, classes + classes % 2)
    even = [squared_length(heavy, 1 / classes, layers)] * len(kept)
    net = _net(settings["net_width"], generator)
    progress()

    def length_errors(outputs: Sequence[float]) -> list[float]:
        return [
            _length_error(squared, [length] * classes, flat),
            _length_error(entropy, [logits] * classes, flat, centred=True),
            _length_error(seen, outputs, [shares[index] for index in kept]),
        ]

    return Outcome(
        measured={
            "examples_collapse": [_variability(state) for state in (squared, entropy, seen)],
            "means_form_frames": [
                _frame_distance(squared, orthogonal),
                _frame_distance(entropy, simplex),
                _frame_distance(seen, left),
            ],
            "layers_are_dual": [_duality(state) for state in (squared, entropy, seen)],
            "lengths": length_errors([lengths[index] for index in kept]),
            "rare_classes_vanish": _vanished(uneven, rare),
            "deep_entropy_prefers_pairs": _pairs_over_simplex(settings["decay"], even_classes, 3),
            "net_collapses": net,
        },
        controls={
            "without_decay": _variability(free),
            "frames_exchanged": [_frame_distance(squared, simplex), _frame_distance(entropy, orthogonal)],
            "other_classes": _duality(squared, torch.arange(classes).roll(1)),
            "lengths_of_level_data": length_errors(even),
            "light_decay": _vanished(light, rare),
            "one_layer": _pairs_over_simplex(settings["decay"], even_classes, 1),
        },
        series={"share": shares, "length": lengths},
    )


study = Study(
    id="66",
    slug="neural-collapse",
    paper=Paper(
        title="Neural Collapse in Deep Linear Networks: From Balanced to Imbalanced Data",
        authors=("Hien Dang", "Tho Tran", "Stanley Osher", "Hung Tran-The", "Nhat Ho", "Tan Nguyen"),
        year=2023,
        url="https://arxiv.org/abs/2301.00437",
    ),
    summary="Decay draws classes to points, in a frame that the loss sets and of lengths that counts set, or to none.",
    settings=(
        Setting("classes", "int", 4, "classes", 3, 12),
        Setting("layers", "int", 2, "linear layers upon the features, for squares", 1, 4),
        Setting("width_factor", "int", 2, "features for each class", 2, 8),
        Setting("examples", "int", 10, "examples of a class, on level data", 4, 16),
        Setting("decay", "float", 0.2, "on level data, over that at which all classes vanish", 0.1, 0.4),
        Setting("imbalance", "float", 16.0, "examples of a large class for each of a rare one", 8.0, 32.0),
        Setting("net_width", "int", 16, "a fourth of the units of each hidden layer of the net", 8, 32),
    ),
    statements=(
        Statement(
            "examples_collapse",
            "at_most",
            1e-3,
            "Variance within classes over the squared length of means, at the worst layer: squares, cross-entropy,"
            " and squares on uneven data for classes that last.",
        ),
        Statement(
            "means_form_frames",
            "at_most",
            1e-3,
            "Distance of class means' directions, at the worst layer, from an orthogonal frame, for cross-entropy a"
            " simplex; same three.",
        ),
        Statement(
            "layers_are_dual",
            "at_most",
            1e-3,
            "Distance of these directions from those of the net above, at the worst layer; same three.",
        ),
        Statement(
            "lengths", "at_most", 1e-3, "Relative error of the length of class means at the worst layer; same three."
        ),
        Statement("rare_classes_vanish", "at_most", 1e-3, "Length of the outputs for classes below the threshold."),
        Statement(
            "deep_entropy_prefers_pairs",
            "at_most",
            0.95,
            "Cost of classes opposite in pairs over that of a simplex, cross-entropy, three layers, even classes.",
        ),
        Statement(
            "net_collapses",
            "monotone",
            "decreasing",
            "Spread in classes over that of class means, ReLU net that learns digits, steps 10, 100, 1000.",
        ),
    ),
    controls=(
        Control("without_decay", "examples_collapse", "No decay."),
        Control("frames_exchanged", "means_form_frames", "Simplex for squares, orthogonal for cross-entropy."),
        Control("other_classes", "layers_are_dual", "Each class is set beside the next one."),
        Control("lengths_of_level_data", "lengths", "Lengths as if all classes were of one size."),
        Control("light_decay", "rare_classes_vanish", "An eighth of the decay."),
        Control("one_layer", "deep_entropy_prefers_pairs", "With one layer the simplex is cheaper."),
    ),
    plan=_plan,
    run=_run,
    smoke={"layers": 1, "net_width": 8},
)
