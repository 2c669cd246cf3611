"""Small transformers over the patches of images, many copies at once: every tensor has the copies first."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch.nn import functional

from separatrix.tasks.digits import Digits

Parameters = dict[str, torch.Tensor]
"""By name, each (copies, ...)."""

PATCHES = 16

_PIXEL_MEAN, _PIXEL_DEVIATION = 0.305, 0.376
_FIXED = ".right"
_SETTLING = 20


@dataclasses.dataclass(frozen=True)
class Images:
    """Patches (n, 16, 4) of digits and their classes (n,)."""

    patches: torch.Tensor
    classes: torch.Tensor


def digit_patches(seed: int) -> tuple[Images, Images]:
    """Training and test images of handwritten digits as patches of 2 x 2 standardised pixels."""

    def cut(pixels: torch.Tensor) -> torch.Tensor:
        squares = ((pixels - _PIXEL_MEAN) / _PIXEL_DEVIATION).float().unfold(2, 2, 2).unfold(3, 2, 2)
        return squares.reshape(len(pixels), PATCHES, 4)

    fitted, fresh = (Images(cut(part.inputs), part.targets) for part in Digits(seed=seed).load())
    return fitted, fresh


@dataclasses.dataclass(frozen=True)
class PatchTransformer:
    """A transformer of `layers` blocks with `heads` heads of attention and a ReLU net of four times the width.

    Inputs are `length` patches of `features` numbers, outputs come from the mean over positions. `normalised` puts a
    layer norm before each part of a block and before the output; `qk_norm` puts one on queries and keys; `spectral`
    divides every weight matrix by its spectral norm and gives it a scalar to learn instead (sigma-reparametrisation;
    one power iteration a step follows the norm).

    Source: Zhai et al. 2023, arXiv:2303.06296, section 3.2, for `spectral`; Dehghani et al. 2023, arXiv:2302.05442, for
    `qk_norm`.
    """

    width: int
    heads: int
    layers: int
    length: int
    outputs: int
    features: int
    normalised: bool = True
    qk_norm: bool = False
    spectral: bool = False

    def initial(self, copies: int, generator: torch.Generator) -> Parameters:
        """Weights of variance 1 / fan-in, positions of variance 1 / width, gains of one."""
        wide, found = self.width, {}
        shapes = {"input": (self.features, wide), "output": (wide, self.outputs)}
        for layer in range(self.layers):
            for name in ("query", "key", "value", "merge"):
                shapes[f"{layer}.{name}"] = (wide, wide)
            shapes |= {f"{layer}.up": (wide, 4 * wide), f"{layer}.down": (4 * wide, wide)}
        for name, (fan_in, fan_out) in shapes.items():
            found[name] = torch.randn(copies, fan_in, fan_out, generator=generator) / math.sqrt(fan_in)
            if self.spectral:
                found[f"{name}.gain"] = torch.ones(copies, 1, 1)
                right = functional.normalize(torch.randn(copies, fan_out, 1, generator=generator), dim=1)
                for _ in range(_SETTLING):
                    right = _iterated(found[name], right)
                found[f"{name}.right"] = right
        found["positions"] = torch.randn(copies, self.length, wide, generator=generator) / math.sqrt(wide)
        return found

    def __call__(self, parameters: Parameters, inputs: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Outputs (copies, examples, outputs) of inputs (copies, examples, length, features), and what attention saw.

        The latter are the logits of every layer, each (copies, examples, heads, length, length).
        """
        weights = {name: self._weight(parameters, name) for name in parameters if "gain" not in name}
        stream = _times(inputs, weights["input"]) + parameters["positions"][:, None]
        seen = []
        for layer in range(self.layers):
            signal = self._norm(stream)
            query, key, value = (
                _times(signal, weights[f"{layer}.{name}"]).view(*signal.shape[:3], self.heads, -1).transpose(2, 3)
                for name in ("query", "key", "value")
            )
            if self.qk_norm:
                query, key = (functional.layer_norm(part, part.shape[-1:]) for part in (query, key))
            logits = query @ key.mT / math.sqrt(query.shape[-1])
            seen.append(logits)
            mixed = (logits.softmax(-1) @ value).transpose(2, 3).flatten(3)
            stream = stream + _times(mixed, weights[f"{layer}.merge"])
            up = torch.relu(_times(self._norm(stream), weights[f"{layer}.up"]))
            stream = stream + _times(up, weights[f"{layer}.down"])
        return _times(self._norm(stream.mean(2, keepdim=True)), weights["output"])[:, :, 0], seen

    def _weight(self, parameters: Parameters, name: str) -> torch.Tensor:
        if f"{name}.gain" not in parameters:
            return parameters[name]
        weight = parameters[name]
        norm = (weight @ parameters[f"{name}.right"]).norm(dim=1, keepdim=True)
        rescaled: torch.Tensor = parameters[f"{name}.gain"] * weight / norm
        return rescaled

    def _norm(self, signal: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(signal, signal.shape[-1:]) if self.normalised else signal


@dataclasses.dataclass(frozen=True)
class Trained:
    """Copies after training, and what they went through, each (steps, copies).

    `losses` of the batches, least `entropies` and largest `logits` of attention over layers, and `normalisers`, the
    mean logarithms of the output softmax's denominator.
    """

    parameters: Parameters
    losses: torch.Tensor
    entropies: torch.Tensor
    logits: torch.Tensor
    normalisers: torch.Tensor


def train(
    model: PatchTransformer,
    parameters: Parameters,
    rates: torch.Tensor,
    draw: Callable[[int], tuple[torch.Tensor, torch.Tensor]],
    *,
    steps: int,
    adaptive: bool = True,
    penalty: float = 0.0,
) -> Trained:
    """Train every copy at its own constant rate (copies,), by Adam or by momentum 0.9, without warm-up.

    `draw(step)` gives inputs (copies, examples, length, features) and classes (copies, examples); `penalty` times the
    square of the output softmax's log-denominator joins the cross-entropy (z-loss).
    """
    parameters = dict(parameters)
    learned = [name for name in parameters if not name.endswith(_FIXED)]
    mean, square = ({name: torch.zeros_like(parameters[name]) for name in learned} for _ in range(2))
    history: list[torch.Tensor] = []
    for step in range(1, steps + 1):
        inputs, targets = draw(step)
        leaves = parameters | {name: parameters[name].detach().requires_grad_() for name in learned}
        outputs, attention = model(leaves, inputs)
        losses = _cross_entropies(outputs, targets)
        normaliser = outputs.logsumexp(-1)
        objective = losses + penalty * normaliser.square().mean(1)
        history.append(torch.stack([losses.detach(), *_watched(attention), normaliser.detach().mean(1)]))
        gradients = torch.autograd.grad(objective.sum(), [leaves[name] for name in learned])
        for name, gradient in zip(learned, gradients, strict=True):
            rate = rates.view(-1, *[1] * (gradient.dim() - 1))
            if adaptive:
                mean[name] = 0.9 * mean[name] + 0.1 * gradient
                square[name] = 0.99 * square[name] + 0.01 * gradient.square()
                spread = (square[name] / (1.0 - 0.99**step)).sqrt() + 1e-8
                move = mean[name] / (1.0 - 0.9**step) / spread
            else:
                move = mean[name] = 0.9 * mean[name] + gradient
            parameters[name] = parameters[name] - rate * move
        for name in learned:
            if f"{name}.right" in parameters:
                parameters[f"{name}.right"] = _iterated(parameters[name], parameters[f"{name}.right"])
    return Trained(parameters, *torch.stack(history, 1))


def _cross_entropies(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    losses = functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view(len(outputs), -1).mean(1)


def _watched(attention: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Least mean entropy and largest logit over layers, each (copies,)."""
    layers = [logits.detach() for logits in attention]
    entropies = [torch.special.entr(logits.softmax(-1)).sum(-1).mean((1, 2, 3)) for logits in layers]
    return torch.stack(entropies).amin(0), torch.stack([logits.amax((1, 2, 3, 4)) for logits in layers]).amax(0)


def _iterated(weight: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """One power iteration towards the leading right singular vectors (copies, outputs, 1)."""
    return functional.normalize(weight.mT @ (weight @ right), dim=1)


def _times(signal: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(copies, examples, length, inputs) times (copies, inputs, outputs)."""
    return (signal.flatten(1, 2) @ weight).view(*signal.shape[:3], -1)
