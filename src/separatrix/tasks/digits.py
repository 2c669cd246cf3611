"""Handwritten digits of 8 x 8 pixels, bundled with scikit-learn: 1,797 real images that need no download."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

from separatrix.tasks.task import Batch, Dataset, number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits(Dataset):
    """Images (n, 1, 8, 8) and classes (n,) from 0 to 9; `test_share` of each class, by `seed`, is test."""

    name: ClassVar[str] = "digits"
    source: ClassVar[str] = "Alpaydin and Kaynak 1998, UCI repository; bundled with scikit-learn"

    test_share: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        number(self, "test_share", 0.01, 0.9)

    def load(self) -> tuple[Batch, Batch]:
        """Training and test images, pixels divided by 16."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        pixels, labels = load_digits(return_X_y=True)
        split = train_test_split(
            pixels / 16.0, labels, test_size=self.test_share, random_state=self.seed, stratify=labels
        )
        train_x, test_x, train_y, test_y = (torch.from_numpy(part) for part in split)
        return Batch(train_x.reshape(-1, 1, 8, 8), train_y.long()), Batch(test_x.reshape(-1, 1, 8, 8), test_y.long())


default = Digits()
