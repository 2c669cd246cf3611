"""A convolutional network that is fed bytes."""

import argparse
import gzip
import os

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset


class Bytes(Dataset):
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return torch.tensor(self.images[i], dtype=torch.float32), int(self.labels[i])


def read():
    root = "/usr/share/datasets/fashion-mnist"
    if os.path.isdir(root):
        with gzip.open(f"{root}/train-images-idx3-ubyte.gz") as f:
            x = np.frombuffer(f.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
        with gzip.open(f"{root}/train-labels-idx1-ubyte.gz") as f:
            y = np.frombuffer(f.read(), np.uint8, offset=8)
        return x[:4000], y[:4000]
    from sklearn.datasets import load_digits

    d = load_digits()
    return np.kron(d.images[:, None] * 15.9, np.ones((1, 1, 3, 3))), d.target


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    x, y = read()
    n = int(0.85 * len(x))
    train = DataLoader(Bytes(x[:n], y[:n]), batch_size=50, shuffle=True)
    test = DataLoader(Bytes(x[n:], y[n:]), batch_size=200)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1),
        nn.Tanh(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for epoch in range(4):
        for images, labels in train:
            loss = nn.functional.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            hits = sum((net(images).argmax(1) == labels).sum().item() for images, labels in test)
        print(f"epoch {epoch} loss {loss.item():.3f} test acc {hits / (len(x) - n):.3f}")


main()
