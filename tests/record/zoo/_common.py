"""What the trainings share: data, a perceptron, and its training by any optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

Training = Callable[[], Iterator[object]]
STEPS = 6


def digits(count: int = 16, features: int = 6, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(count, features)
    return x, (x.sum(dim=1).abs() * 2).long() % classes


def images(count: int = 6, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 1, size, size), torch.arange(count) % 3


def tokens(rows: int = 4, length: int = 7, vocabulary: int = 11) -> torch.Tensor:
    return torch.randint(0, vocabulary, (rows, length))


def perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Dropout(0.2), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 3))


def mlp(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Iterator[object]:
    model = perceptron()
    optimizer = make(list(model.parameters()))
    held = np.random.default_rng(3)
    for step in range(STEPS):
        x, y = digits()
        x = x + torch.as_tensor(held.normal(size=x.shape), dtype=torch.float32)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        print(f"step {step}: {loss.item()}")
        yield model, optimizer, loss, held


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd-momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "sgd-fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adam-amsgrad-for-loop": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True, foreach=False),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "adam-tensor-lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-2)),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "nadam": lambda p: torch.optim.NAdam(p),
    "radam": lambda p: torch.optim.RAdam(p),
    "adamax": lambda p: torch.optim.Adamax(p),
    "asgd": lambda p: torch.optim.ASGD(p),
    "rprop": lambda p: torch.optim.Rprop(p),
    "adafactor": lambda p: torch.optim.Adafactor(p),
    "groups": lambda p: torch.optim.SGD([{"params": p[:2], "lr": 0.3}, {"params": p[2:]}], lr=0.1),
}
