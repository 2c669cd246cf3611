"""Small causal transformers over characters of real text, many copies at once, that branch and train on."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from separatrix.tasks.text import VOCABULARY, SourceText

_MOMENTS = (0.9, 0.99)
_EPSILON = 1e-8


@dataclasses.dataclass(frozen=True)
class CharacterCopies:
    """A pre-norm transformer of `layers` blocks with learnt positions and a ReLU net of four times the width."""

    width: int
    length: int
    heads: int = 2
    layers: int = 1

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor of one copy."""
        wide, symbols = self.width, len(VOCABULARY)
        found: dict[str, tuple[int, ...]] = {"symbols": (symbols, wide), "positions": (self.length, wide)}
        for layer in range(self.layers):
            found |= {f"{layer}.attend": (wide, 3 * wide), f"{layer}.merge": (wide, wide)}
            found |= {f"{layer}.up": (wide, 4 * wide), f"{layer}.down": (4 * wide, wide)}
        return found | {"output": (wide, symbols)}

    @property
    def size(self) -> int:
        """Parameters of one copy."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def inner_size(self) -> int:
        """Parameters of one copy without the embeddings of symbols and positions."""
        return self.size - sum(math.prod(self.shapes[name]) for name in ("symbols", "positions"))

    def initial(self, copies: int, generator: torch.Generator) -> Tensor:
        """Parameters (copies, size) of variance 1 / width for embeddings, 1 / fan-in for matrices, and 0 outputs."""
        parts = [
            torch.randn(copies, math.prod(shape), generator=generator)
            / math.sqrt(shape[0] if "." in name else self.width)
            * (name != "output")
            for name, shape in self.shapes.items()
        ]
        return torch.cat(parts, 1)

    def losses(self, parameters: Tensor, windows: Tensor) -> Tensor:
        """Mean cross-entropy (copies,), nats a character, of windows (copies, n, length + 1) at parameters."""
        copies, count, _ = windows.shape
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        weight = {
            name: part.view(copies, *shape)
            for (name, shape), part in zip(self.shapes.items(), torch.split(parameters, sizes, 1), strict=True)
        }
        shift = torch.arange(copies)[:, None, None] * len(VOCABULARY)
        stream = functional.embedding(windows[:, :, :-1] + shift, weight["symbols"].flatten(0, 1))
        stream = (stream + weight["positions"][:, None]).flatten(1, 2)
        for layer in range(self.layers):
            parts = torch.bmm(self._normed(stream), weight[f"{layer}.attend"])
            parts = parts.view(copies * count, self.length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
            mixed = mixed.transpose(1, 2).reshape(copies, count * self.length, self.width)
            stream = torch.baddbmm(stream, mixed, weight[f"{layer}.merge"])
            up = torch.relu(torch.bmm(self._normed(stream), weight[f"{layer}.up"]))
            stream = torch.baddbmm(stream, up, weight[f"{layer}.down"])
        outputs = torch.bmm(self._normed(stream), weight["output"])
        targets = windows[:, :, 1:].reshape(-1)
        losses = functional.cross_entropy(outputs.flatten(0, 1), targets, reduction="none")
        return losses.view(copies, -1).mean(1)

    def _normed(self, stream: Tensor) -> Tensor:
        return functional.layer_norm(stream, (self.width,))


@dataclasses.dataclass(frozen=True)
class State:
    """Copies in training: parameters and Adam's moments, each (copies, size), after `step` updates."""

    parameters: Tensor
    first: Tensor
    second: Tensor
    step: int = 0

    def copies(self, rows: Sequence[int]) -> State:
        """The chosen copies, in that order; a row may be repeated."""
        chosen = torch.tensor(list(rows), dtype=torch.long)
        return State(self.parameters[chosen], self.first[chosen], self.second[chosen], self.step)


def begin(model: CharacterCopies, copies: int, generator: torch.Generator) -> State:
    """Copies before training."""
    parameters = model.initial(copies, generator)
    return State(parameters, torch.zeros_like(parameters), torch.zeros_like(parameters))


@dataclasses.dataclass(frozen=True)
class Text:
    """Windows of a text that is drawn by seed and step alone, so that equal steps of different runs see equal batches.

    `batch` windows of `length` characters a step; `held_out` windows for validation are the same at all times.
    """

    length: int
    batch: int
    seed: int
    held_out: int = 256

    def drawn(self, step: int, stream: int) -> Tensor:
        """Training windows (batch, length + 1) of a step of one stream of data."""
        return self._source.windows(self.batch, self._generator(stream, step + 1))

    def validation(self) -> Tensor:
        """Validation windows (held_out, length + 1)."""
        return self._source.windows(self.held_out, self._generator(0, 0), "validation")

    @functools.cached_property
    def _source(self) -> SourceText:
        return SourceText(length=self.length)

    def _generator(self, stream: int, step: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed * 1_000 + stream) * 1_000_000 + step)


def train(
    model: CharacterCopies,
    state: State,
    rates: Tensor,
    text: Text,
    streams: Sequence[int],
    *,
    every: int,
) -> tuple[State, Tensor]:
    """Train by Adam at `rates` (updates, copies), and validate after each `every` updates of the whole training.

    `streams` (copies,) name the data that each copy sees. Returns the state and validation losses (times, copies).
    """
    validation = text.validation()
    seen, order = torch.unique(torch.as_tensor(streams), return_inverse=True)
    parameters, first, second, step = state.parameters, state.first.clone(), state.second.clone(), state.step
    fast, slow = _MOMENTS
    losses = []
    for rate in rates:
        drawn = torch.stack([text.drawn(step, int(stream)) for stream in seen])[order]
        leaf = parameters.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(model.losses(leaf, drawn).sum(), leaf)
        step += 1
        first.lerp_(gradient, 1 - fast)
        second.mul_(slow).addcmul_(gradient, gradient, value=1 - slow)
        spread = (second / (1 - slow**step)).sqrt_().add_(_EPSILON)
        parameters = parameters - (rate / (1 - fast**step))[:, None] * first / spread
        if step % every == 0:
            with torch.no_grad():
                held = validation.expand(len(parameters), -1, -1)
                losses.append(model.losses(parameters, held))
    kept = torch.stack(losses) if losses else torch.empty(0, len(parameters))
    return State(parameters, first, second, step), kept
