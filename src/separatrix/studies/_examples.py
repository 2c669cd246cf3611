"""What the studies of single examples share: many small nets trained as one, each example watched after every epoch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from separatrix.analysis.examples import error_norms, margins
from separatrix.tasks import Batch, Digits, ensemble

MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class Watched:
    """Outputs after each epoch of training, for every copy and example, whether it was trained on or not.

    `labels` (copies, examples) are those that the copies were told. `start` are outputs before the first step.
    `accuracy` is the share of test examples that each copy classifies correctly, mean over the last quarter of epochs.
    """

    start: Float[Tensor, " copies examples classes"]
    logits: Float[Tensor, " epochs copies examples classes"]
    labels: Int[Tensor, " copies examples"]
    accuracy: Float[np.ndarray, " copies"]
    networks: ensemble.Ensemble

    def correct(self, copy: int) -> Float[np.ndarray, " epochs examples"]:
        """1 where the label was predicted."""
        return (self.logits[:, copy].argmax(-1) == self.labels[copy]).double().numpy()

    def losses(self, copy: int) -> Float[np.ndarray, " epochs examples"]:
        """Cross-entropy with the label."""
        chances = functional.log_softmax(self.logits[:, copy].double(), -1)
        own = self.labels[copy].expand(len(chances), -1)[..., None]
        return -chances.gather(-1, own)[..., 0].numpy()

    def margins(self, copy: int) -> Float[np.ndarray, " epochs examples"]:
        """Logit of the label less the largest other."""
        return margins(self.logits[:, copy].numpy(), self.labels[copy].numpy())

    def error_norms(self, copy: int) -> Float[np.ndarray, " epochs examples"]:
        """EL2N."""
        chances = torch.softmax(self.logits[:, copy].double(), -1)
        return error_norms(chances.numpy(), self.labels[copy].expand(len(chances), -1).numpy())


def perceptron(inputs: int, width: int, classes: int) -> Callable[[], nn.Module]:
    """A net with one hidden layer of ReLUs, of flattened inputs."""
    return lambda: nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes))


def convolutional(width: int, classes: int) -> Callable[[], nn.Module]:
    """Two convolutions over images of 8 x 8 pixels, and a linear layer."""
    return lambda: nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * width, classes),
    )


def watch(
    build: Callable[[], nn.Module],
    inputs: Float[Tensor, " examples ..."],
    labels: Int[Tensor, " copies examples"],
    *,
    epochs: int,
    batch: int,
    rate: float,
    seed: int,
    rows: Int[Tensor, " copies chosen"] | None = None,
    seeds: Sequence[int] | None = None,
    test: Batch | None = None,
    watched: bool = True,
) -> Watched:
    """Train one copy on each row of labels by SGD with momentum, on `rows` only where they are given.

    Each copy shuffles by itself; what does not fill a batch is left out of that epoch. `seeds` start the copies, by
    default numbers that follow from `seed`. Outputs are kept where `watched`.
    """
    copies, examples = labels.shape
    kept = torch.arange(examples).expand(copies, -1) if rows is None else rows
    each = max(1, kept.shape[1] // batch)
    draw = torch.Generator().manual_seed(seed)
    networks = ensemble.stack(build, [1000 * seed + copy for copy in range(copies)] if seeds is None else seeds)
    order = kept
    outputs: list[Tensor] = []

    def data(step: int) -> tuple[Tensor, Tensor]:
        nonlocal order
        position = (step - 1) % each
        if position == 0:
            order = kept.gather(1, torch.rand(kept.shape, generator=draw).argsort(1))
        chosen = order[:, position * batch : (position + 1) * batch]
        return inputs[chosen], labels.gather(1, chosen)

    def look(now: ensemble.Ensemble) -> Tensor:
        if watched:
            outputs.append(now.outputs(inputs, shared=True))
        if test is None:
            return torch.zeros(copies)
        predicted: Tensor = now.outputs(test.inputs, shared=True).argmax(-1)
        return (predicted == test.targets).double().mean(1)

    training = ensemble.train(
        networks,
        functional.cross_entropy,
        ensemble.SGD(rate, momentum=MOMENTUM),
        data,
        epochs * each,
        measure={"accuracy": look},
        every=each,
    )
    accuracies = training.measured["accuracy"].values[1:]
    logits = torch.stack(outputs) if watched else torch.empty(1, copies, examples, 0)
    return Watched(
        logits[0], logits[1:], labels, accuracies[-math.ceil(epochs / 4) :].mean(0).numpy(), training.ensemble
    )


def flipped(
    targets: Int[Tensor, " examples"], share: float, classes: int, generator: torch.Generator
) -> tuple[Int[Tensor, " examples"], np.ndarray]:
    """Labels of which a share is replaced by another class, all others equally likely; and which those are."""
    count = round(share * len(targets))
    chosen = torch.randperm(len(targets), generator=generator)[:count]
    labels, planted = targets.clone(), np.zeros(len(targets), dtype=bool)
    labels[chosen] = (targets[chosen] + torch.randint(1, classes, (count,), generator=generator)) % classes
    planted[chosen.numpy()] = True
    return labels, planted


def digits(seed: int) -> Digits:
    """Digits with a half for testing, so that differences of accuracy can be resolved; split by `seed`."""
    return Digits(test_share=0.4, seed=seed)


def detection(scores: np.ndarray, planted: np.ndarray) -> float:
    """Area under the ROC curve: chance that a planted example scores above another, ties counting half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(planted, scores))
