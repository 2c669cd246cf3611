"""Small nets for tests of steering, as functions of their size."""

from __future__ import annotations

import torch
from torch import nn


def mlp(width: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Three layers of torch's own initial values, drawn from `seed`."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        layers = (nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3))
        return nn.Sequential(*layers).to(dtype)


class Tied(nn.Module):
    """An embedding, one layer and a readout that shares the embedding's weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, width)
        self.middle = nn.Linear(width, width)
        self.readout = nn.Linear(width, 11, bias=False)
        self.readout.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        readout: torch.Tensor = self.readout(torch.tanh(self.middle(self.embedding(tokens))))
        return readout


class Residual(nn.Module):
    """An input layer, a stack of residual blocks of two layers, and a readout."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Linear(6, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(width, 2 * width), "down": nn.Linear(2 * width, width)})
            for _ in range(depth)
        )
        self.last = nn.Linear(width, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        stream = self.first(inputs)
        for block in self.blocks:
            assert isinstance(block, nn.ModuleDict)
            stream = stream + block["down"](torch.relu(block["up"](stream)))
        outputs: torch.Tensor = self.last(stream)
        return outputs


def residual(width: int, depth: int, *, seed: int = 0) -> Residual:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return Residual(width, depth).double()


def batches(steps: int, features: int = 6, targets: int = 3, seed: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and targets of a regression, for so many steps."""
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randn(8, features + targets, dtype=torch.float64, generator=generator) for _ in range(steps)]
    return [(draw[:, :features], draw[:, features:]) for draw in draws]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 8) -> torch.Tensor:
    """Outputs on the first batch before each step of a regression and after the last, steps first."""
    data, outputs = batches(steps), []
    probe = data[0][0]
    for inputs, targets in data:
        outputs.append(model(probe).detach().clone())
        optimizer.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        optimizer.step()
    outputs.append(model(probe).detach().clone())
    return torch.stack(outputs)
