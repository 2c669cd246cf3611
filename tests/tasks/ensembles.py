"""Networks, data, and the training of each copy by itself with torch alone, which ensembles are held to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from separatrix.tasks import ensemble

COPIES, BATCH, STEPS = 3, 5, 50

RATES = [0.3, 0.01, 0.1]


def mlp(activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 4))


class Transformer(nn.Module):
    """One pre-norm block over (a, b, =) tokens; the read-out shares its weights with the embedding.

    A bias of the keys has no gradient but rounding noise, which Adam would blow up: there is none.
    """

    def __init__(self, symbols: int = 7, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.tokens = nn.Embedding(symbols + 1, width)
        self.places = nn.Parameter(0.1 * torch.randn(3, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.read = nn.Linear(width, symbols + 1, bias=False)
        self.read.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.read(x[:, -1])


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 4)
    )


def vectors(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return (
        torch.randn(COPIES, BATCH, 6, generator=generator),
        torch.randint(0, 4, (COPIES, BATCH), generator=generator),
    )


def images(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return (
        torch.randn(COPIES, BATCH, 1, 4, 4, generator=generator),
        torch.randint(0, 4, (COPIES, BATCH), generator=generator),
    )


def sums(step: int) -> tuple[Tensor, Tensor]:
    terms = torch.randint(0, 7, (COPIES, BATCH, 2), generator=torch.Generator().manual_seed(step))
    equals = torch.full((COPIES, BATCH, 1), 7)
    return torch.cat([terms, equals], dim=2), terms.sum(2) % 7


def one_by_one(
    networks: ensemble.Ensemble,
    optimizer: Callable[[int, Any], torch.optim.Optimizer],
    data: Callable[[int], tuple[Tensor, Tensor]],
    loss: Callable[..., Tensor] = F.cross_entropy,
    factor: Callable[[int], float] | None = None,
    clip: list[float] | None = None,
) -> tuple[list[nn.Module], Tensor]:
    """The oracle: each copy in an eager loop of its own."""
    modules, losses = [], []
    for index in range(networks.copies):
        module = networks.module(index)
        steps = optimizer(index, [p for p in module.parameters() if p.requires_grad])
        rate = steps.param_groups[0]["lr"]
        mine = []
        for step in range(1, STEPS + 1):
            inputs, targets = data(step)
            steps.zero_grad()
            value = loss(module(inputs[index]), targets[index])
            value.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), clip[index])
            steps.param_groups[0]["lr"] = rate * (1.0 if factor is None else factor(step))
            steps.step()
            mine.append(value.detach())
        modules.append(module)
        losses.append(torch.stack(mine))
    return modules, torch.stack(losses, dim=1)


def assert_same(training: ensemble.Training, modules: list[nn.Module], losses: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(training.loss, losses, rtol=tolerance, atol=tolerance)
    for index, module in enumerate(modules):
        found = training.ensemble.module(index).state_dict()
        for name, values in module.state_dict().items():
            torch.testing.assert_close(found[name], values, rtol=tolerance, atol=tolerance, msg=f"copy {index}: {name}")


OPTIMIZERS: dict[str, tuple[ensemble.Optimizer, Callable[[int, Any], torch.optim.Optimizer]]] = {
    "sgd": (ensemble.SGD(RATES), lambda i, p: torch.optim.SGD(p, lr=RATES[i])),
    "momentum": (
        ensemble.SGD(0.1, momentum=[0.9, 0.0, 0.5], dampening=[0.1, 0.3, 0.0], weight_decay=[0.0, 0.1, 0.01]),
        lambda i, p: torch.optim.SGD(
            p, lr=0.1, momentum=[0.9, 0.0, 0.5][i], dampening=[0.1, 0.3, 0.0][i], weight_decay=[0.0, 0.1, 0.01][i]
        ),
    ),
    "nesterov": (
        ensemble.SGD(RATES, momentum=0.8, nesterov=True),
        lambda i, p: torch.optim.SGD(p, lr=RATES[i], momentum=0.8, nesterov=True),
    ),
    "adam": (
        ensemble.Adam([0.01, 0.003, 0.1], weight_decay=0.01, beta1=[0.9, 0.0, 0.5], epsilon=[1e-8, 1e-3, 1e-6]),
        lambda i, p: torch.optim.Adam(
            p,
            lr=[0.01, 0.003, 0.1][i],
            weight_decay=0.01,
            betas=([0.9, 0.0, 0.5][i], 0.999),
            eps=[1e-8, 1e-3, 1e-6][i],
        ),
    ),
    "adamw": (
        ensemble.adamw([0.01, 0.003, 0.1], weight_decay=[0.1, 0.01, 0.0], beta2=[0.99, 0.95, 0.999]),
        lambda i, p: torch.optim.AdamW(
            p, lr=[0.01, 0.003, 0.1][i], weight_decay=[0.1, 0.01, 0.0][i], betas=(0.9, [0.99, 0.95, 0.999][i])
        ),
    ),
}
