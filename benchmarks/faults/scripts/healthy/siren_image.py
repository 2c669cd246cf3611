"""Sinusoidal network that fits one picture (a handwritten digit, enlarged)."""

import argparse
import math

import torch
from sklearn.datasets import load_digits
from torch import nn


class Sine(nn.Module):
    def __init__(self, i, o, w0, first=False):
        super().__init__()
        self.w0, self.linear = w0, nn.Linear(i, o)
        bound = 1 / i if first else math.sqrt(6 / i) / w0
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x):
        return torch.sin(self.w0 * self.linear(x))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.manual_seed(seed)
    small = torch.tensor(load_digits().images[seed % 100], dtype=torch.float32)[None, None] / 8 - 1
    image = nn.functional.interpolate(small, size=(32, 32), mode="bicubic")[0, 0]
    line = torch.linspace(-1, 1, 32)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).view(-1, 2)
    pixels = image.reshape(-1, 1)
    net = nn.Sequential(Sine(2, 64, 8.0, True), Sine(64, 64, 8.0), nn.Linear(64, 1))
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    for it in range(400):
        pred = net(grid)
        loss = (pred - pixels).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        if it % 80 == 0:
            print(it, "psnr", -10 * math.log10(loss.item() / 4))


main()
