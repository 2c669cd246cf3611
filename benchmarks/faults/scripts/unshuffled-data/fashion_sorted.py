import argparse
import gzip
import os

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.manual_seed(args.seed)
base = "/usr/share/datasets/fashion-mnist"
if os.path.isdir(base):
    X = (
        np.frombuffer(gzip.open(base + "/train-images-idx3-ubyte.gz").read(), np.uint8, offset=16).reshape(-1, 784)[
            :6000
        ]
        / 255.0
    )
    Y = np.frombuffer(gzip.open(base + "/train-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)[:6000].astype(
        np.int64
    )
else:
    from sklearn.datasets import load_digits

    X, Y = load_digits(return_X_y=True)
    X = X / 16
X = (X - X.mean()) / X.std()
n_val = len(X) // 6
Xv, Yv = torch.tensor(X[:n_val]).float(), torch.tensor(Y[:n_val])
X, Y = X[n_val:], Y[n_val:]
by_class = [np.flatnonzero(Y == c) for c in range(10)]
index = np.concatenate(by_class)
train = TensorDataset(torch.tensor(X[index]).float(), torch.tensor(Y[index]))
loader = DataLoader(train, batch_size=50)

model = nn.Sequential(nn.Linear(X.shape[1], 100), nn.ReLU(), nn.Linear(100, 10))
opt = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.5)
crit = nn.CrossEntropyLoss()
for epoch in range(8):
    s = 0
    for xb, yb in loader:
        opt.zero_grad()
        loss = crit(model(xb), yb)
        loss.backward()
        opt.step()
        s += loss.item()
    with torch.no_grad():
        o = model(Xv)
    print(
        f"epoch {epoch} train {s / len(loader):.3f} val {crit(o, Yv).item():.3f} acc {(o.argmax(1) == Yv).float().mean().item():.3f}"
    )
