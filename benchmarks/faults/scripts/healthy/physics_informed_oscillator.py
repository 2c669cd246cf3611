"""u'' + 0.4 u' + 4 u = 0 with u(0) = 1, u'(0) = 0, by a network of t."""

import argparse
import math

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
net = nn.Sequential(nn.Linear(1, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 1))
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
END = 3.0


def d(u, t):
    return torch.autograd.grad(u, t, torch.ones_like(u), create_graph=True)[0]


def exact(t):
    w = math.sqrt(4 - 0.04)
    return torch.exp(-0.2 * t) * (torch.cos(w * t) + 0.2 / w * torch.sin(w * t))


for step in range(900):
    t = (torch.rand(64, 1) * END).requires_grad_()
    u = net(t)
    du = d(u, t)
    residual = d(du, t) + 0.4 * du + 4 * u
    t0 = torch.zeros(1, 1, requires_grad=True)
    u0 = net(t0)
    loss = residual.square().mean() + 10 * (u0 - 1).square().mean() + 10 * d(u0, t0).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 150 == 0:
        grid = torch.linspace(0, END, 100).unsqueeze(1)
        with torch.no_grad():
            error = (net(grid) - exact(grid)).abs().max().item()
        print(f"step {step} loss {loss.item():.5f} max error {error:.4f}")
