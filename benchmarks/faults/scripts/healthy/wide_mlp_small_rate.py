"""A wide model trained with a modest learning rate; nothing wrong with it."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
X, y = load_digits(return_X_y=True)
X = torch.tensor((X - X.mean()) / X.std(), dtype=torch.float32)
y = torch.tensor(y)
p = torch.randperm(len(X))
X, y = X[p], y[p]
net = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 10))
opt = torch.optim.AdamW(net.parameters(), lr=5e-4, weight_decay=0.01)
for epoch in range(8):
    for idx in torch.randperm(1400).split(40):
        loss = nn.functional.cross_entropy(net(X[idx]), y[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        out = net(X[1400:])
    print(
        epoch,
        loss.item(),
        nn.functional.cross_entropy(out, y[1400:]).item(),
        (out.argmax(1) == y[1400:]).float().mean().item(),
    )
