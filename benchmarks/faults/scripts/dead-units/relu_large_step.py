"""Regression of a smooth function. One enormous target early on throws the network's units out of reach."""

import argparse

import torch
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("--seed", type=int, default=0)
torch.manual_seed(p.parse_args().seed)


def f(x):
    return torch.sin(3 * x[:, :1]) + x[:, 1:]


x = torch.rand(3000, 2) * 2 - 1
y = f(x)
y[5] = -14000.0
net = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
opt = torch.optim.SGD(net.parameters(), lr=0.02)
xv = torch.rand(500, 2) * 2 - 1
for epoch in range(5):
    for i in range(0, 3000, 50):
        xb, yb = x[i : i + 50], y[i : i + 50]
        if epoch > 0 and i == 0:
            continue
        loss = nn.functional.mse_loss(net(xb), yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        print(epoch, loss.item(), nn.functional.mse_loss(net(xv), f(xv)).item())
