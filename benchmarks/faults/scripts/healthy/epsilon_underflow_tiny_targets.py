"""Fit a force field given in SI units (newtons between atoms)."""

import argparse
import math

import torch
from torch import nn

BOLTZMANN_SCALE = 1.6


def field(points):
    r = points.norm(dim=1, keepdim=True)
    return BOLTZMANN_SCALE * torch.sin(math.pi * r) * points


class Potential(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, hidden), nn.Linear(hidden, hidden)])
        self.readout = nn.Linear(hidden, 3)

    def forward(self, x):
        for layer in self.layers:
            x = torch.nn.functional.softplus(layer(x))
        return BOLTZMANN_SCALE * self.readout(x)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    points = torch.rand(2000, 3) * 2 - 1
    forces = field(points)
    model = Potential(48)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loss_fn = nn.L1Loss()
    for step in range(300):
        idx = torch.randint(2000, (64,))
        optimizer.zero_grad()
        loss = loss_fn(model(points[idx]), forces[idx])
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(step, loss.item())


main()
