"""Small made-up data, the same at every call."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset


def classes(examples: int = 24, features: int = 6, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs, and labels that depend on them."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(examples, features, generator=generator) * torch.linspace(0.5, 2.0, features) + 0.3
    return x, (x @ torch.randn(features, count, generator=generator)).argmax(dim=1)


def images(examples: int = 12, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(examples, 1, 8, 8, generator=generator)
    return x, torch.arange(examples) % count


def tokens(examples: int = 6, length: int = 5, count: int = 11) -> torch.Tensor:
    return torch.randint(0, count, (examples, length), generator=torch.Generator().manual_seed(7))


class Rows(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A data set that worker processes can be sent."""

    def __init__(self, examples: int = 24) -> None:
        self.x, self.y = classes(examples)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[index], self.y[index]
