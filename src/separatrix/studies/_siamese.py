"""Small convolutional nets trained on two views of digits without contrast, and a linear probe of what they learn."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from separatrix.tasks import ImageViews
from separatrix.theory.non_contrastive import set_predictor

_CHANNELS = (8, 32)
_FEATURES, _EMBEDDING = 64, 32
_BATCH = 64
_RATE, _MOMENTUM, _WEIGHT_DECAY = 0.05, 0.9, 4e-4
_TARGET_MEMORY = 0.99
_FEATURES_MEMORY = 0.3  # of DirectPred's running covariance
_RIDGE = 1e-3

Predictor = Literal["trained", "direct"]


@dataclasses.dataclass(frozen=True)
class Siamese:
    """Weights and biases of two convolutions of stride 2, a layer of features and a linear embedding."""

    tensors: tuple[Tensor, ...]

    def features(self, images: Float[Tensor, "n 1 8 8"]) -> Float[Tensor, "n features"]:
        """What is probed."""
        first, first_bias, second, second_bias, third, third_bias = self.tensors[:6]
        hidden = functional.conv2d(images, first, first_bias, stride=2, padding=1).relu()
        hidden = functional.conv2d(hidden, second, second_bias, stride=2, padding=1).relu()
        return functional.linear(hidden.flatten(1), third, third_bias).relu()

    def embedding(self, images: Float[Tensor, "n 1 8 8"]) -> Float[Tensor, "n embedding"]:
        """What is predicted."""
        return functional.linear(self.features(images), *self.tensors[6:])


def drawn(generator: torch.Generator) -> Siamese:
    """Weights of variance 1 / (3 fan-in), biases 0."""
    shapes = (
        (_CHANNELS[0], 1, 3, 3),
        (_CHANNELS[1], _CHANNELS[0], 3, 3),
        (_FEATURES, 4 * _CHANNELS[1]),
        (_EMBEDDING, _FEATURES),
    )
    tensors: list[Tensor] = []
    for shape in shapes:
        reach = 1 / math.sqrt(math.prod(shape[1:]))
        tensors += [reach * (2 * torch.rand(shape, generator=generator) - 1), torch.zeros(shape[0])]
    return Siamese(tuple(tensors))


def train(net: Siamese, predictor: Predictor, offset: float, steps: int, generator: torch.Generator) -> Siamese:
    """BYOL with a linear predictor, trained by gradient or set as in DirectPred from a running covariance.

    The loss is 1 - cosine of prediction and target, both ways; the target is a running mean of the net.
    """
    views = ImageViews()
    held = [tensor.clone().requires_grad_() for tensor in net.tensors]
    target = [tensor.clone() for tensor in net.tensors]
    reach = 1 / math.sqrt(_EMBEDDING)
    linear = reach * (2 * torch.rand(_EMBEDDING, _EMBEDDING, generator=generator) - 1)
    online, following = Siamese(tuple(held)), Siamese(tuple(target))
    trained = [*held, linear.requires_grad_()] if predictor == "trained" else held
    optimizer = torch.optim.SGD(trained, lr=_RATE, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY)
    covariance: Tensor | None = None
    for _ in range(steps):
        pairs = views.sample(_BATCH, generator).inputs
        images, others = pairs.transpose(0, 1).flatten(0, 1), pairs.flip(1).transpose(0, 1).flatten(0, 1)
        embedded = online.embedding(images)
        with torch.no_grad():
            wanted = following.embedding(others)
        if predictor == "direct":
            covariance = _running(covariance, embedded.detach())
            linear = _set(covariance, offset)
        loss = (1 - functional.cosine_similarity(embedded @ linear.T, wanted)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            for kept, now in zip(target, held, strict=True):
                kept.lerp_(now, 1 - _TARGET_MEMORY)
    return Siamese(tuple(tensor.detach() for tensor in held))


def _running(before: Tensor | None, embedded: Tensor) -> Tensor:
    now = embedded.T @ embedded / len(embedded)
    return now if before is None else _FEATURES_MEMORY * before + (1 - _FEATURES_MEMORY) * now


def _set(covariance: Tensor, offset: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    strengths = torch.from_numpy(set_predictor(values.numpy(), offset))
    predictor: Tensor = (vectors * strengths) @ vectors.T
    return predictor


def probe(net: Siamese, shuffle: torch.Generator | None = None) -> float:
    """Accuracy on test digits of ridge regression on features of training digits; their labels shuffled if asked."""
    base = ImageViews().base
    with torch.no_grad():
        seen, unseen = (net.features(part.inputs).double() for part in (base.train, base.test))
    shift, scale = seen.mean(0), seen.std(0) + 1e-6
    seen, unseen = (functional.pad((part - shift) / scale, (0, 1), value=1.0) for part in (seen, unseen))
    labels = base.train.targets
    if shuffle is not None:
        labels = labels[torch.randperm(len(labels), generator=shuffle)]
    gram = seen.T @ seen / len(seen) + _RIDGE * torch.eye(seen.shape[1], dtype=seen.dtype)
    weights = torch.linalg.solve(gram, seen.T @ functional.one_hot(labels).double() / len(seen))
    return float(((unseen @ weights).argmax(1) == base.test.targets).double().mean())
