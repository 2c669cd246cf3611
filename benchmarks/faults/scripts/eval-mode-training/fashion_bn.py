import argparse
import gzip
import os

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


def fashion():
    r = "/usr/share/datasets/fashion-mnist/"
    if os.path.isdir(r):
        x = np.frombuffer(gzip.open(r + "train-images-idx3-ubyte.gz").read(), np.uint8, offset=16).reshape(
            -1, 1, 28, 28
        )
        y = np.frombuffer(gzip.open(r + "train-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)
        return x[:5000].astype(np.float32) / 255, y[:5000].astype(np.int64)
    from sklearn.datasets import load_digits

    d = load_digits()
    return np.kron(d.images, np.ones((1, 3, 3)))[:, None, :, :].repeat(1, 1).astype(np.float32) / 16, d.target.astype(
        np.int64
    )


def conv(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())


def validate(model, loader):
    model.eval()
    n = c = l = 0
    with torch.no_grad():
        for x, y in loader:
            o = model(x)
            l += nn.functional.cross_entropy(o, y, reduction="sum").item()
            c += (o.argmax(1) == y).sum().item()
            n += len(y)
    return l / n, c / n


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.manual_seed(a.seed)
    x, y = fashion()
    x = torch.tensor((x - x.mean()) / x.std())
    y = torch.tensor(y)
    k = int(0.8 * len(x))
    train = DataLoader(TensorDataset(x[:k], y[:k]), batch_size=64, shuffle=True)
    valid = DataLoader(TensorDataset(x[k:], y[k:]), batch_size=200)
    model = nn.Sequential(
        conv(1, 12), conv(12, 24), conv(24, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    )
    opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    print("start", validate(model, valid))
    for epoch in range(8):
        for xb, yb in train:
            loss = nn.functional.cross_entropy(model(xb), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
        print("epoch %d loss %.3f" % (epoch, loss.item()), "val loss %.3f acc %.3f" % validate(model, valid))
    print(
        "running mean of first norm:",
        model[0][1].running_mean.abs().max().item(),
        "batches seen:",
        model[0][1].num_batches_tracked.item(),
        "training flag:",
        model.training,
    )
