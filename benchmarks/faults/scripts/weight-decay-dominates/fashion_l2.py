import argparse
import gzip
import os

import numpy as np
import torch
import torch.nn as nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--weight-decay", type=float, default=0.1)
args = parser.parse_args()
torch.manual_seed(args.seed)
D = "/usr/share/datasets/fashion-mnist/"
if os.path.exists(D):
    with gzip.open(D + "train-images-idx3-ubyte.gz") as f:
        f.read(16)
        X = np.frombuffer(f.read(784 * 6000), np.uint8).reshape(6000, 784) / 255
    with gzip.open(D + "train-labels-idx1-ubyte.gz") as f:
        f.read(8)
        Y = np.frombuffer(f.read(6000), np.uint8).astype(int)
else:
    from sklearn.datasets import load_digits

    X, Y = load_digits(return_X_y=True)
    X = X / 16
X = torch.tensor((X - X.mean()) / X.std(), dtype=torch.float32)
Y = torch.tensor(Y)
n = len(X) * 5 // 6
net = nn.Sequential(nn.Linear(X.shape[1], 100), nn.ReLU(), nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))
opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=args.weight_decay)
ce = nn.CrossEntropyLoss()


def weight_norm():
    return sum(p.pow(2).sum() for p in net.parameters()).sqrt().item()


print("start norm", weight_norm())
for epoch in range(8):
    for b in torch.randperm(n).split(64):
        opt.zero_grad()
        loss = ce(net(X[b]), Y[b])
        loss.backward()
        opt.step()
    with torch.no_grad():
        o = net(X[n:])
        print(
            f"epoch {epoch} train {loss.item():.3f} val {ce(o, Y[n:]).item():.3f} acc {(o.argmax(1) == Y[n:]).float().mean().item():.3f} norm {weight_norm():.2f}"
        )
