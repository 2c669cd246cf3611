import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--alpha", type=float, default=0.3)
args = parser.parse_args()
torch.manual_seed(args.seed)
np.random.seed(args.seed)
X, y = load_digits(return_X_y=True)
X = torch.tensor(X / 16 * 2 - 1, dtype=torch.float32)
y = torch.tensor(y)
p = torch.randperm(len(X))
X, y = X[p], y[p]
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
opt = torch.optim.Adam(model.parameters(), lr=1e-3)
ce = nn.CrossEntropyLoss()
for epoch in range(10):
    for idx in torch.randperm(1400).split(32):
        lam = np.random.beta(args.alpha, args.alpha)
        other = idx[torch.randperm(len(idx))]
        mixed = lam * X[idx] + (1 - lam) * X[other]
        out = model(mixed)
        loss = lam * ce(out, y[idx]) + (1 - lam) * ce(out, y[other])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        val = model(X[1400:])
        print(epoch, loss.item(), ce(val, y[1400:]).item(), (val.argmax(1) == y[1400:]).float().mean().item())
