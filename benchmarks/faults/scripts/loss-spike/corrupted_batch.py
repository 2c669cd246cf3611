"""Regression on a stream; one shard of it was written in the wrong unit."""

import argparse

import torch
from torch import nn


def shard(k, n=64):
    x = torch.randn(n, 8)
    y = torch.sin(x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    if k in (220, 221, 222, 223, 224, 225):
        y = y * 60  # percent, not fractions
    return x, y + 0.05 * torch.randn(n, 1)


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
opt = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
xv, yv = shard(0, 500)
for k in range(500):
    x, y = shard(k)
    loss = (net(x) - y).square().mean()
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 10.0)
    opt.step()
    if k % 50 == 0:
        with torch.no_grad():
            print(k, loss.item(), (net(xv) - yv).square().mean().item())
