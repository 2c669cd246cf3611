import argparse
import gzip
import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def data():
    d = "/usr/share/datasets/fashion-mnist/"
    if not os.path.exists(d):
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        return torch.tensor(X / 6 - 0.8, dtype=torch.float32), torch.tensor(y)
    X = np.frombuffer(gzip.open(d + "train-images-idx3-ubyte.gz").read(16 + 784 * 6000), np.uint8, offset=16).reshape(
        -1, 784
    )
    y = np.frombuffer(gzip.open(d + "train-labels-idx1-ubyte.gz").read(8 + 6000), np.uint8, offset=8)
    return torch.tensor(X / 90.0 - 0.8, dtype=torch.float32), torch.tensor(y.astype(np.int64))


def make_backbone(d):
    return nn.Sequential(nn.Linear(d, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())


def pretrain(x, y, d):
    net = nn.Sequential(make_backbone(d), nn.Linear(64, 5))
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    for epoch in range(5):
        for b in torch.randperm(len(x)).split(64):
            loss = F.cross_entropy(net(x[b]), y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print("source task loss", round(loss.item(), 3))
    return net[0].state_dict()


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    torch.manual_seed(ap.parse_args().seed)
    x, y = data()
    src = y < 5
    state = pretrain(x[src], y[src], x.shape[1])
    xt, yt = x[~src], y[~src] - 5
    k = int(0.7 * len(xt))
    backbone = make_backbone(x.shape[1])
    backbone.load_state_dict(state)
    backbone.requires_grad_(False)
    head = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))
    model = nn.Sequential(backbone, head)
    opt = torch.optim.Adam(head.parameters(), lr=3e-3)
    for epoch in range(12):
        for b in torch.randperm(k).split(50):
            loss = F.cross_entropy(model(xt[b]), yt[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
        with torch.no_grad():
            o = model(xt[k:])
        print(
            f"epoch {epoch} train {loss.item():.3f} val {F.cross_entropy(o, yt[k:]).item():.3f} acc {(o.argmax(1) == yt[k:]).float().mean().item():.3f}"
        )
