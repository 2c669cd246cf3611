import argparse
import gzip
import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def load(kind, n):
    d = "/usr/share/datasets/fashion-mnist"
    if not os.path.isdir(d):
        from sklearn.datasets import load_digits

        g = load_digits()
        im = np.pad(np.kron(g.images, np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2))) * 15.9
        return (im[:1300], g.target[:1300]) if kind == "train" else (im[1300:], g.target[1300:])
    im = np.frombuffer(gzip.open(f"{d}/{kind}-images-idx3-ubyte.gz").read(16 + n * 784), np.uint8, offset=16).reshape(
        n, 28, 28
    )
    lb = np.frombuffer(gzip.open(f"{d}/{kind}-labels-idx1-ubyte.gz").read(8 + n), np.uint8, offset=8)
    return im, lb.astype(np.int64)


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(1, 8, 5, stride=2, padding=2)
        self.c2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(16 * 49, 10)

    def forward(self, x):
        x = F.relu(self.c1(x))
        x = F.relu(self.c2(x))
        return self.fc(x.flatten(1))


def weak_labels(y, rng, confuse):
    """Labels taken from product titles of the shop."""
    wrong = (y + rng.integers(1, 10, len(y))) % 10
    return np.where(rng.random(len(y)) < confuse, wrong, y)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--confuse", type=float, default=0.3)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    xt, yt = load("train", 5000)
    xv, yv = load("t10k", 1000)
    yt = weak_labels(yt, rng, args.confuse)
    to = lambda a: (torch.tensor(a / 255.0, dtype=torch.float32)[:, None] - 0.29) / 0.35
    xt, xv, yt, yv = to(xt), to(xv), torch.tensor(yt), torch.tensor(yv)
    net = ConvNet()
    opt = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for epoch in range(8):
        run = []
        for b in torch.randperm(len(xt)).split(64):
            loss = F.cross_entropy(net(xt[b]), yt[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
            run.append(loss.item())
        with torch.no_grad():
            o = net(xv)
        print(
            f"epoch {epoch} train {np.mean(run):.3f} val {F.cross_entropy(o, yv).item():.3f} acc {(o.argmax(1) == yv).float().mean().item():.3f}"
        )
