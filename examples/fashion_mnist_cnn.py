"""A small convolutional network learns Fashion-MNIST, or scikit-learn's digits where Fashion-MNIST is not found."""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

PACKAGE = "dataset-fashion-mnist"
FILES = {"train": "train", "test": "t10k"}


class ConvNet(nn.Module):
    def __init__(self, side: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(16 * (side // 4) ** 2, 128)
        self.output = nn.Linear(128, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.relu(self.norm1(self.conv1(images))))
        x = self.pool(self.relu(self.norm2(self.conv2(x))))
        x = self.relu(self.hidden(x.flatten(1)))
        return self.output(x)


def fashion_mnist_folder() -> Path | None:
    """The folder that SEPARATRIX_DATA names, else the one of Debian's package, else none."""
    if "SEPARATRIX_DATA" in os.environ:
        folder = Path(os.environ["SEPARATRIX_DATA"])
        if not (folder / "train-images-idx3-ubyte.gz").is_file():
            raise SystemExit(f"SEPARATRIX_DATA names {folder}, which holds no train-images-idx3-ubyte.gz")
        return folder
    if shutil.which("dpkg") is None:
        return None
    listing = subprocess.run(["dpkg", "-L", PACKAGE], capture_output=True, text=True, check=False)
    images = [Path(line) for line in listing.stdout.splitlines() if line.endswith("train-images-idx3-ubyte.gz")]
    return images[0].parent if images and images[0].is_file() else None


def read_idx(path: Path) -> np.ndarray:
    """One array in the IDX format: two zero bytes, a type (8 = bytes), the rank, the sizes, the data."""
    with gzip.open(path) as file:
        content = file.read()
    if content[:3] != b"\x00\x00\x08":
        raise SystemExit(f"{path} is not an IDX file of bytes")
    rank = content[3]
    shape = np.frombuffer(content, dtype=">i4", count=rank, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * rank).reshape(shape)


def load_fashion_mnist(folder: Path) -> list[np.ndarray]:
    arrays = []
    for part in FILES.values():
        arrays.append(read_idx(folder / f"{part}-images-idx3-ubyte.gz") / np.float32(255))
        arrays.append(read_idx(folder / f"{part}-labels-idx1-ubyte.gz").astype(np.int64))
    return arrays


def load_digits() -> list[np.ndarray]:
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    images, labels = load(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8)
    split = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)
    return [split[0], split[2], split[1], split[3]]


def load_data(limit: int | None) -> tuple[TensorDataset, TensorDataset]:
    """Training and validation data, the pixels shifted and scaled to mean 0 and spread 1 over the training images."""
    folder = fashion_mnist_folder()
    if folder is None:
        print(f"data: scikit-learn's digits (install {PACKAGE} or set SEPARATRIX_DATA for Fashion-MNIST)")
        train_x, train_y, test_x, test_y = load_digits()
    else:
        print(f"data: Fashion-MNIST from {folder}")
        train_x, train_y, test_x, test_y = load_fashion_mnist(folder)
    train_x, train_y, test_x, test_y = train_x[:limit], train_y[:limit], test_x[:limit], test_y[:limit]
    mean, spread = train_x.mean(), train_x.std()
    train, test = (
        TensorDataset(torch.from_numpy((x - mean) / spread).unsqueeze(1), torch.from_numpy(y))
        for x, y in ((train_x, train_y), (test_x, test_y))
    )
    return train, test


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader) -> tuple[float, float]:
    model.eval()
    loss, right, seen = 0.0, 0, 0
    for images, labels in loader:
        logits = model(images)
        loss += functional.cross_entropy(logits, labels, reduction="sum").item()
        right += int((logits.argmax(1) == labels).sum())
        seen += len(labels)
    return loss / seen, right / seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=None, help="use only so many examples")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    train, test = load_data(options.limit)
    train_loader = DataLoader(train, batch_size=options.batch_size, shuffle=True)
    test_loader = DataLoader(test, batch_size=500)

    model = ConvNet(side=train.tensors[0].shape[-1], classes=10)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    criterion = nn.CrossEntropyLoss()

    for epoch in range(1, options.epochs + 1):
        start = time.perf_counter()
        model.train()
        total = 0.0
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
        test_loss, accuracy = evaluate(model, test_loader)
        print(
            f"epoch {epoch}: training loss {total / len(train):.3f}, test loss {test_loss:.3f},"
            f" test accuracy {accuracy:.1%}, {time.perf_counter() - start:.1f} s"
        )


if __name__ == "__main__":
    main()
