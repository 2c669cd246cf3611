"""A deep tower without normalisation, initialised with too large a gain."""

import argparse

import torch
import torch.nn as nn
from sklearn.datasets import load_digits


def tower(depth, width, gain):
    layers = [nn.Linear(64, width)]
    for _ in range(depth):
        layer = nn.Linear(width, width)
        nn.init.orthogonal_(layer.weight, gain=gain)
        nn.init.zeros_(layer.bias)
        layers += [nn.Tanh(), layer]
    return nn.Sequential(*layers, nn.Tanh(), nn.Linear(width, 10))


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
X, y = load_digits(return_X_y=True)
X = torch.tensor((X - X.mean()) / X.std(), dtype=torch.float32)
y = torch.tensor(y)
perm = torch.randperm(len(X))
X, y = X[perm], y[perm]
model = tower(16, 64, 5.0)
opt = torch.optim.SGD(model.parameters(), lr=0.01)
for epoch in range(6):
    for idx in torch.randperm(1400).split(40):
        loss = nn.functional.cross_entropy(model(X[idx]), y[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        print(epoch, loss.item(), (model(X[1400:]).argmax(1) == y[1400:]).float().mean().item())
