"""Classify garments (or digits, where the files are missing) with a small convolutional network."""

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

FOLDER = Path("/usr/share/datasets/fashion-mnist")


def load(count=4000):
    try:
        with gzip.open(FOLDER / "train-images-idx3-ubyte.gz") as f:
            images = np.frombuffer(f.read(16 + 784 * count), np.uint8, offset=16).reshape(-1, 28, 28)
        with gzip.open(FOLDER / "train-labels-idx1-ubyte.gz") as f:
            labels = np.frombuffer(f.read(8 + count), np.uint8, offset=8)
        images = images[:, ::2, ::2] / 255.0
    except OSError:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images, labels = np.kron(digits.images / 16.0, np.ones((2, 2)))[:, 1:15, 1:15], digits.target
    x = torch.tensor((images - 0.3) / 0.35, dtype=torch.float32).unsqueeze(1)
    return x, torch.tensor(labels.astype("int64"))


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(16 * 49, 64), nn.ReLU(), nn.Linear(64, 10), nn.Softmax(dim=1)
        )

    def forward(self, x):
        return self.classifier(self.features(x))


def accuracy(model, loader):
    model.eval()
    right = total = 0
    with torch.no_grad():
        for x, y in loader:
            right += (model(x).argmax(1) == y).sum().item()
            total += len(y)
    model.train()
    return right / total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    x, y = load()
    cut = len(x) * 4 // 5
    train_loader = DataLoader(TensorDataset(x[:cut], y[:cut]), batch_size=64, shuffle=True)
    val_loader = DataLoader(TensorDataset(x[cut:], y[cut:]), batch_size=256)
    model = ConvNet()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(args.epochs):
        total = 0.0
        for xb, yb in train_loader:
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch}: loss {total / len(train_loader):.3f} val acc {accuracy(model, val_loader):.3f}")


if __name__ == "__main__":
    main()
