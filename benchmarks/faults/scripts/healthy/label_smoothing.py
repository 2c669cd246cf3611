import argparse
import gzip
import os

import numpy as np
import torch
import torch.nn as nn


def fashion(n):
    base = "/usr/share/datasets/fashion-mnist/"
    if not os.path.exists(base):
        from sklearn.datasets import load_digits

        d = load_digits()
        return torch.tensor(d.images[:, None] / 16, dtype=torch.float32), torch.tensor(d.target)
    x = np.frombuffer(gzip.open(base + "train-images-idx3-ubyte.gz").read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    y = np.frombuffer(gzip.open(base + "train-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)
    return torch.tensor(x[:n] / 255.0, dtype=torch.float32), torch.tensor(y[:n].astype(np.int64))


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.manual_seed(args.seed)
x, y = fashion(5000)
n = int(len(x) * 0.85)
x = (x - x[:n].mean()) / x[:n].std()
net = nn.Sequential(
    nn.Conv2d(1, 12, 5, stride=2, padding=2),
    nn.ReLU(),
    nn.Conv2d(12, 24, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(3),
    nn.Flatten(),
    nn.Linear(216, 10),
)
criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
optimizer = torch.optim.RMSprop(net.parameters(), lr=1e-3)
for epoch in range(4):
    net.train()
    for batch in torch.randperm(n).split(64):
        optimizer.zero_grad()
        loss = criterion(net(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        out = net(x[n:])
        print(
            "epoch",
            epoch,
            "loss",
            loss.item(),
            "val",
            criterion(out, y[n:]).item(),
            "acc",
            (out.argmax(1) == y[n:]).float().mean().item(),
        )
