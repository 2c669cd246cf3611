"""Nets that are built at any width, and their trainings at many learning rates at once, for studies of transfer."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional

from separatrix.steer import parametrize
from separatrix.tasks import Digits, SourceText

Build = Callable[[int], nn.Module]
"""From a width to a net."""
Draw = Callable[[int], tuple[Tensor, Tensor]]
"""From the number of a step to its inputs and classes."""

_MOMENTS = (0.9, 0.99)
_EPSILON = 1e-8
_HEAD = 8


def mlp(width: int, layers: int = 2, inputs: int = 64, classes: int = 10) -> nn.Module:
    """Hidden ReLU layers of one width."""
    fans = [inputs, *[width] * layers]
    parts = [part for a, b in itertools.pairwise(fans) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*parts, nn.Linear(width, classes))


class _Block(nn.Module):
    """Causal attention with heads of one size, and a ReLU net of four times the width, both behind layer norms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // _HEAD
        self.before_attention, self.before_net = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.merge = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, stream: Tensor) -> Tensor:
        signal = self.before_attention(stream)
        shape = (*signal.shape[:2], self.heads, _HEAD)
        query, key, value = (part(signal).view(shape).transpose(1, 2) for part in (self.query, self.key, self.value))
        length = stream.shape[1]
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        logits = (query @ key.mT / _HEAD**0.5).masked_fill(future, float("-inf"))
        mixed = (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)
        stream = stream + self.merge(mixed)
        stream = stream + self.down(torch.relu(self.up(self.before_net(stream))))
        return stream


class CharTransformer(nn.Module):
    """A causal transformer over characters: tokens (n, length) to logits (n, length, vocabulary).

    Heads have a fixed size, so that their number grows with the width.
    """

    def __init__(self, width: int, layers: int = 2, length: int = 32, vocabulary: int = 98) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(layers))
        self.norm, self.readout = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next character at every position."""
        stream = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            stream = block(stream)
        logits: Tensor = self.readout(self.norm(stream))
        return logits


def digit_batches(seed: int, batch: int) -> Draw:
    """Batches of standardised digits (batch, 64), drawn anew at every step; equal steps give equal batches."""
    images = Digits(seed=seed).load()[0]
    pixels = (images.inputs.flatten(1).float() - 0.305) / 0.376

    def draw(step: int) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(pixels), (batch,), generator=torch.Generator().manual_seed(1000003 * seed + step))
        return pixels[rows], images.targets[rows]

    return draw


def text_batches(seed: int, batch: int, length: int = 16) -> Draw:
    """Batches of windows (batch, length) of source text and the characters that follow; equal steps, equal batches."""
    task = SourceText(length=length)

    def draw(step: int) -> tuple[Tensor, Tensor]:
        found = task.sample(batch, torch.Generator().manual_seed(1000003 * seed + step))
        return found.inputs, found.targets

    return draw


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How nets are scaled: `rule` from those of width `base`."""

    build: Build
    rule: str
    base: int

    def tensors(self, width: int, seed: int) -> tuple[nn.Module, dict[str, float], dict[str, float]]:
        """A net of a width, and the factors on the rate and on the epsilon of Adam for each of its tensors."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            model = self.build(width)
        small, large = (functools.partial(self.build, size) for size in (self.base, 2 * self.base))
        found = parametrize(model, base=small, delta=large, rule=self.rule)
        groups = found.param_groups(torch.optim.Adam, lr=1.0, eps=_EPSILON)
        names = {id(tensor): name for name, tensor in model.named_parameters()}
        rates = {names[id(tensor)]: group["lr"] for group in groups for tensor in group["params"]}
        epsilons = {names[id(tensor)]: group["eps"] for group in groups for tensor in group["params"]}
        return model, rates, epsilons


def losses_by_rate(
    scaling: Scaling, width: int, rates: Sequence[float], seed: int, draw: Draw, steps: int, *, last: float = 0.25
) -> Tensor:
    """Losses (rates,) of nets that Adam trains from one start, one at each rate: means over the `last` share of steps.

    Rates warm up over a tenth of the steps and then fall linearly to zero. All nets see the same batches.
    """
    return _losses(scaling, width, rates, [seed] * len(rates), draw, steps, last)


def losses_by_start(
    scaling: Scaling, width: int, rate: float, seeds: Sequence[int], draw: Draw, steps: int, *, last: float = 0.25
) -> Tensor:
    """Losses (seeds,) of nets that Adam trains at one rate, from the start of each seed; else as `losses_by_rate`."""
    return _losses(scaling, width, [rate] * len(seeds), seeds, draw, steps, last)


def _losses(
    scaling: Scaling, width: int, rates: Sequence[float], seeds: Sequence[int], draw: Draw, steps: int, last: float
) -> Tensor:
    made = {seed: scaling.tensors(width, seed) for seed in seeds}
    model, factors, epsilons = made[seeds[0]]
    starts = {seed: dict(net.named_parameters()) for seed, (net, _, _) in made.items()}
    values = {name: torch.stack([starts[seed][name].detach() for seed in seeds]) for name in factors}
    mean, square = ({name: torch.zeros_like(tensor) for name, tensor in values.items()} for _ in range(2))

    def loss(tensors: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        logits = functional_call(model, tensors, (inputs,))
        return functional.cross_entropy(logits.flatten(0, -2), targets.flatten())

    step_of = vmap(grad_and_value(loss), in_dims=(0, None, None))
    peak, kept = torch.tensor(rates), []
    warm = max(1, steps // 10)
    for step in range(1, steps + 1):
        gradients, found = step_of(values, *draw(step))
        if step > steps - max(1, int(last * steps)):
            kept.append(found)
        rate = peak * min(step / warm, (steps + 1 - step) / (steps + 1 - warm))
        for name, gradient in gradients.items():
            mean[name].lerp_(gradient, 1 - _MOMENTS[0])
            square[name].lerp_(gradient.square(), 1 - _MOMENTS[1])
            spread = (square[name] / (1 - _MOMENTS[1] ** step)).sqrt_().add_(epsilons[name])
            move = (mean[name] / (1 - _MOMENTS[0] ** step)).div_(spread)
            values[name] -= (factors[name] * rate).view(-1, *[1] * (move.dim() - 1)) * move
    return torch.stack(kept).mean(0)
