import argparse
import math

import numpy as np
import torch
from torch import nn


class CoordNet(nn.Module):
    """Maps a coordinate to the intensity of a signal."""

    def __init__(self, width=64, depth=3):
        super().__init__()
        layers, d = [], 1
        for _ in range(depth):
            layers += [nn.Linear(d, width), nn.ReLU()]
            d = width
        layers.append(nn.Linear(d, 1))
        self.net = nn.Sequential(*layers)

    def forward(self, t):
        return self.net(t).squeeze(-1)


def signal(t):
    t = t[:, 0]
    return torch.sin(26 * math.pi * t) + 0.5 * torch.cos(34 * math.pi * t) + 0.8 * t


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    t = torch.rand(3000, 1) * 2 - 1
    y = signal(t)
    tv = torch.rand(600, 1) * 2 - 1
    yv = signal(tv)
    net = CoordNet()
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    hist = []
    for step in range(1200):
        b = torch.randint(0, len(t), (128,))
        loss = (net(t[b]) - y[b]).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        hist.append(loss.item())
        if step % 100 == 99:
            with torch.no_grad():
                print(step + 1, f"train {np.mean(hist[-100:]):.4f} val {(net(tv) - yv).pow(2).mean().item():.4f}")
    print(
        "mean of steps 200-400",
        np.mean(hist[200:400]),
        "mean of last 200",
        np.mean(hist[-200:]),
        "variance",
        y.var().item(),
    )
