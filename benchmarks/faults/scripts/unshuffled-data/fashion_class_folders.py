"""Reads images folder by folder, as they lie on the disk, and trains a perceptron."""

import argparse
import gzip
import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset


class FolderLike(Dataset):
    """All images of class 0, then of class 1, ..."""

    def __init__(self, images, labels):
        order = np.argsort(labels, kind="stable")
        self.images, self.labels = images[order], labels[order]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return torch.from_numpy(self.images[index]), int(self.labels[index])


def read(n):
    root = "/usr/share/datasets/fashion-mnist"
    if not os.path.exists(root):
        from sklearn.datasets import load_digits

        d = load_digits()
        return (d.data / 16 - 0.3).astype(np.float32), d.target
    with gzip.open(root + "/train-images-idx3-ubyte.gz") as f:
        images = np.frombuffer(f.read(16 + n * 784), np.uint8, offset=16).reshape(n, 784)
    with gzip.open(root + "/train-labels-idx1-ubyte.gz") as f:
        labels = np.frombuffer(f.read(8 + n), np.uint8, offset=8)
    return (images / 255.0 - 0.29).astype(np.float32), labels.astype(np.int64)


class Perceptron(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.a = nn.Linear(inputs, 128)
        self.b = nn.Linear(128, 10)

    def forward(self, x):
        return self.b(F.relu(self.a(x)))


def main(seed):
    torch.manual_seed(seed)
    images, labels = read(4000)
    n = int(0.8 * len(labels))
    train, held_out = FolderLike(images[:n], labels[:n]), FolderLike(images[n:], labels[n:])
    loader = DataLoader(train, batch_size=64)
    model = Perceptron(images.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(5):
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            guess = model(torch.from_numpy(held_out.images)).argmax(1).numpy()
        print("epoch", epoch, "accuracy", (guess == held_out.labels).mean())


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    main(p.parse_args().seed)
