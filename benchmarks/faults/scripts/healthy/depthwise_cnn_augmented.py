"""Depthwise-separable convolutions with random shifts of the images."""

import argparse
import gzip
import os

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

ROOT = "/usr/share/datasets/fashion-mnist"


class Images(Dataset):
    def __init__(self, x, y, augment):
        self.x, self.y, self.augment = x, y, augment

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        x = self.x[i]
        if self.augment:
            dx, dy = torch.randint(-2, 3, (2,)).tolist()
            x = torch.roll(x, (dx, dy), dims=(1, 2))
            if torch.rand(()) < 0.5:
                x = x.flip(2)
        return x, self.y[i]


def separable(i, o, stride):
    return nn.Sequential(
        nn.Conv2d(i, i, 3, stride, 1, groups=i, bias=False),
        nn.BatchNorm2d(i),
        nn.ReLU6(),
        nn.Conv2d(i, o, 1, bias=False),
        nn.BatchNorm2d(o),
        nn.ReLU6(),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    if os.path.isdir(ROOT):
        x = np.frombuffer(gzip.open(f"{ROOT}/train-images-idx3-ubyte.gz").read(), np.uint8, offset=16).reshape(
            -1, 1, 28, 28
        )[:4600]
        y = np.frombuffer(gzip.open(f"{ROOT}/train-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)[:4600].astype(
            "int64"
        )
        x = x / 255.0
    else:
        from sklearn.datasets import load_digits

        d = load_digits()
        x, y = d.images[:, None] / 16.0, d.target
    x, y = torch.tensor((x - x.mean()) / x.std(), dtype=torch.float32), torch.tensor(y)
    n = int(0.87 * len(x))
    train = DataLoader(Images(x[:n], y[:n], True), batch_size=64, shuffle=True)
    val = DataLoader(Images(x[n:], y[n:], False), batch_size=200)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        separable(16, 32, 2),
        separable(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    opt = torch.optim.Adam(model.parameters(), lr=4e-3)
    for epoch in range(4):
        model.train()
        for xb, yb in train:
            opt.zero_grad()
            loss = nn.functional.cross_entropy(model(xb), yb)
            loss.backward()
            opt.step()
        model.eval()
        with torch.no_grad():
            hits = sum((model(xb).argmax(1) == yb).sum().item() for xb, yb in val)
        print(f"epoch {epoch} loss {loss.item():.3f} val acc {hits / (len(x) - n):.3f}")
