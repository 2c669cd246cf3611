"""Small causal transformers over the characters of Python's library: of linear layers, and of few tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from separatrix.tasks.text import VOCABULARY, SourceText

LENGTH = 64
_HEAD = 16
_TESTED = 256  # windows
_BARE: dict[str, Any] = {"bias": False, "device": "meta"}


class Block(nn.Module):
    """Causal attention and a ReLU net of four times the width, each behind a normalisation without gains."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // _HEAD)
        self.query, self.key, self.value, self.merge = (nn.Linear(width, width, **_BARE) for _ in range(4))
        self.up = nn.Linear(width, 4 * width, **_BARE)
        self.down = nn.Linear(4 * width, width, **_BARE)

    def forward(self, stream: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        """The residual stream after this block."""
        signal = functional.rms_norm(stream, stream.shape[-1:])
        query, key, value = (
            part(signal).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        stream = stream + self.merge(mixed.transpose(1, 2).flatten(2))
        grown: Tensor = self.down(torch.relu(self.up(functional.rms_norm(stream, stream.shape[-1:]))))
        return stream + grown


class CharacterTransformer(nn.Module):
    """`layers` blocks of linear layers, which optimizers of matrices find, and root-mean-square norms without gains.

    Weights are drawn from `generator` with variance 1 / fan-in, those that end a branch divided by the root of twice
    the number of layers; the embedding has variance 1, positions start at zero.
    """

    def __init__(self, width: int, layers: int, generator: torch.Generator) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(VOCABULARY), width, device="meta")
        self.positions = nn.Parameter(torch.empty(LENGTH, width, device="meta"))
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.output = nn.Linear(width, len(VOCABULARY), **_BARE)
        self.to_empty(device="cpu")  # weights of torch's own would be drawn from the global generator
        with torch.no_grad():
            self.positions.zero_()
            self.embedding.weight.copy_(torch.randn(self.embedding.weight.shape, generator=generator))
            self.output.weight.copy_(torch.randn(self.output.weight.shape, generator=generator) / math.sqrt(width))
            for name, weight in self.blocks.named_parameters():
                ends = name.endswith(("merge.weight", "down.weight"))
                deviation = 1 / math.sqrt(weight.shape[1] * (2 * layers if ends else 1))
                weight.copy_(deviation * torch.randn(weight.shape, generator=generator))

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length characters"]:
        """Logits of the character after each."""
        stream = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            stream = block(stream)
        logits: Tensor = self.output(functional.rms_norm(stream, stream.shape[-1:]))
        return logits


class FusedCharacterTransformer(nn.Module):
    """`layers` blocks of few tensors for ensembles: queries, keys and values in one, layer norms and GELU nets.

    Weights come from the global generator with variance 1 / fan-in, positions with 1 / width; symbols of variance 1 are
    divided by the root of the width where they enter, and outputs start at zero.
    """

    def __init__(self, width: int, length: int, layers: int = 1, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.symbols = nn.Embedding(len(VOCABULARY), width)
        self.places = nn.Parameter(torch.randn(length, width) / math.sqrt(width))
        shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
        self.weights = nn.ParameterList(
            torch.randn(shape) / math.sqrt(shape[1]) for _ in range(layers) for shape in shapes
        )
        self.output = nn.Parameter(torch.zeros(len(VOCABULARY), width))

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length symbols"]:
        """Logits of the character after each."""
        stream = self.symbols(tokens) / math.sqrt(len(self.output[0])) + self.places
        batch, length, width = stream.shape
        for layer in range(0, len(self.weights), 4):
            attend, merge, up, down = (self.weights[layer + part] for part in range(4))
            parts = functional.linear(functional.layer_norm(stream, (width,)), attend)
            query, key, value = parts.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            stream = stream + functional.linear(mixed.transpose(1, 2).reshape(batch, length, width), merge)
            hidden = functional.gelu(functional.linear(functional.layer_norm(stream, (width,)), up))
            stream = stream + functional.linear(hidden, down)
        return functional.linear(functional.layer_norm(stream, (width,)), self.output)


def loss_of(model: nn.Module, windows: Int[Tensor, "batch window"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of every character but the first of each window, in nats."""
    loss: Tensor = functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
    return loss


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    batch: int,
    seed: int,
    watch: Callable[[int], object] = lambda step: None,
) -> float:
    """Train with a tenth of warm-up and linear decay to zero; the loss on windows of text that is not trained on.

    `watch(step)` is called before the step, when gradients are there. A training that diverges has infinite loss.
    """
    text, generator = SourceText(length=LENGTH), torch.Generator().manual_seed(seed)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (steps - step) / (steps - warm))
    )
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, text.windows(batch, generator))
        if not bool(loss.isfinite()):
            return math.inf
        torch.autograd.backward(loss)
        watch(step)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        tested = float(loss_of(model, text.windows(_TESTED, torch.Generator().manual_seed(1), "validation")))
    return tested if math.isfinite(tested) else math.inf
