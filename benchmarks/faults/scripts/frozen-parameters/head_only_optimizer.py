"""A small CNN; the optimizer was copied from a fine-tuning script and holds the last layer only."""

import argparse
import gzip
import os

import numpy as np
import torch
import torch.nn as nn


class CNN(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
        )
        self.classifier = nn.Linear(256, classes)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def data():
    root = "/usr/share/datasets/fashion-mnist/"
    if os.path.isdir(root):
        x = np.frombuffer(gzip.open(root + "train-images-idx3-ubyte.gz").read(), np.uint8, offset=16).reshape(
            -1, 1, 28, 28
        )[:5000]
        y = np.frombuffer(gzip.open(root + "train-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)[:5000]
        return (x / 255.0 - 0.286) / 0.353, y.astype("int64")
    from sklearn.datasets import load_digits

    d = load_digits()
    return (d.images[:, None] / 16 - 0.3) / 0.38, d.target


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
x, y = data()
x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
n = int(0.85 * len(x))
model = CNN()
optimizer = torch.optim.Adam(model.classifier.parameters(), lr=1e-3)
for epoch in range(3):
    model.train()
    for idx in torch.randperm(n).split(64):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[idx]), y[idx])
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        acc = (model(x[n:]).argmax(1) == y[n:]).float().mean().item()
    print(f"epoch {epoch} loss {loss.item():.3f} val acc {acc:.3f}")
