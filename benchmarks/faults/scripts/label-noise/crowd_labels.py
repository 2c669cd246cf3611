"""Garments with labels from a crowd: a CNN, checked on curated examples after each epoch."""

import argparse
import gzip

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

ROOT = "/usr/share/datasets/fashion-mnist/"


def load(n):
    try:
        with gzip.open(ROOT + "train-images-idx3-ubyte.gz") as f:
            images = np.frombuffer(f.read(16 + 784 * n), np.uint8, offset=16).reshape(n, 28, 28)[:, ::2, ::2] / 255.0
        with gzip.open(ROOT + "train-labels-idx1-ubyte.gz") as f:
            labels = np.frombuffer(f.read(8 + n), np.uint8, offset=8).astype(np.int64)
    except OSError:
        from sklearn.datasets import load_digits

        d = load_digits()
        images, labels = np.kron(d.images / 16, np.ones((2, 2)))[:, 1:15, 1:15], d.target
    return torch.tensor(images, dtype=torch.float32).unsqueeze(1) - 0.3, torch.tensor(labels)


class CNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(16 * 9, 64), nn.Linear(64, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    x, y = load(3500)
    x_val, y_val = x[-500:], y[-500:]
    x, y = x[:-500], y[:-500].clone()
    careless = torch.tensor(rng.random(len(y)) < 0.4)
    y[careless] = torch.tensor(rng.integers(0, 10, int(careless.sum())))

    model = CNN()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(8):
        model.train()
        for idx in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[idx]), y[idx])
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            out = model(x_val)
            val_loss = F.cross_entropy(out, y_val).item()
            acc = (out.argmax(1) == y_val).float().mean().item()
        print(f"epoch {epoch}: batch loss {loss.item():.3f}  curated: loss {val_loss:.3f} accuracy {acc:.3f}")


if __name__ == "__main__":
    main()
