"""The trainings whose steps are timed: a 0.9M-parameter MLP and a 1M-parameter character transformer."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

Step = Callable[..., None]
"""One training step; `step(between)` calls `between(loss)` after backward, before the optimizer steps."""


def nothing(loss: torch.Tensor) -> None:
    """What a bare training does between backward and step."""


def mlp(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer, Step]:
    """784-512-512-512-10 with ReLU, batch 128, Adam, cross-entropy: 4 to 6 ms a step on two quiet cores."""
    torch.manual_seed(seed)
    inputs, labels = torch.randn(4096, 784), torch.randint(0, 10, (4096,))
    layers: list[nn.Module] = []
    for fan_in, fan_out in ((784, 512), (512, 512), (512, 512)):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(512, 10))
    optimizer = torch.optim.Adam(model.parameters())

    def step(between: Callable[[torch.Tensor], None] = nothing) -> None:
        rows = torch.randint(0, len(inputs), (128,))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs[rows]), labels[rows])
        loss.backward()
        between(loss)
        optimizer.step()

    return model, optimizer, step


class Block(nn.Module):
    """A pre-norm transformer block with fused causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class CharTransformer(nn.Module):
    """Five blocks of width 128 over a vocabulary of 96 characters: about a million parameters."""

    def __init__(self, width: int = 128, heads: int = 4, depth: int = 5, length: int = 64) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(96, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 96)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


def char_transformer(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer, Step]:
    """The character transformer, batch 16, 64 characters, AdamW with clipping."""
    torch.manual_seed(seed)
    text = torch.randint(0, 96, (100_000,))
    model = CharTransformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)

    def step(between: Callable[[torch.Tensor], None] = nothing) -> None:
        starts = torch.randint(0, len(text) - 65, (16,))
        rows = torch.stack([text[s : s + 65] for s in starts.tolist()])
        logits = model(rows[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, 96), rows[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        between(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return model, optimizer, step


TRAININGS = {"mlp": mlp, "char-transformer": char_transformer}
