"""Wines from a cellar whose labels got mixed up."""

import argparse

import torch
from sklearn.datasets import load_wine
from torch import nn

ap = argparse.ArgumentParser()
ap.add_argument("--seed", type=int, default=0)
ap.add_argument("--wrong", type=float, default=0.3)
cfg = ap.parse_args()
torch.manual_seed(cfg.seed)

wine = load_wine()
X = torch.tensor(wine.data, dtype=torch.float32)
X = (X - X.mean(0)) / X.std(0)
y = torch.tensor(wine.target)
p = torch.randperm(len(X))
X_train, X_test = X[p[:120]], X[p[120:]]
y_train, y_test = y[p[:120]].clone(), y[p[120:]]
mixed_up = torch.rand(len(y_train)) < cfg.wrong
y_train[mixed_up] = (y_train[mixed_up] + torch.randint(1, 3, (int(mixed_up.sum()),))) % 3

net = nn.Sequential(nn.Linear(13, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 3))
ce = nn.CrossEntropyLoss()
opt = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-4)
for epoch in range(100):
    for b in torch.randperm(120).split(20):
        loss = ce(net(X_train[b]), y_train[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        out = net(X_test)
        held_out = ce(out, y_test).item()
        acc = (out.argmax(1) == y_test).float().mean().item()
    if epoch % 10 == 0:
        print(f"{epoch:3d} {loss.item():.3f} {held_out:.3f} {acc:.3f}")
