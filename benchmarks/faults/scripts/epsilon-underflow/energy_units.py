import argparse

import numpy as np
import torch
from torch import nn


class EnergyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, x):
        return self.f(x).squeeze(-1)


def watts(n, rng):
    x = rng.normal(size=(n, 8))
    y = 1.2 * x[:, 0] + np.sin(2 * x[:, 1]) + x[:, 2] * x[:, 3] + 0.1 * rng.normal(size=n)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)


def loss_in_megawatts(pred, target):
    err = (pred - target) * 1e-6
    return (err**2).mean()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    x, y = watts(3000, rng)
    xv, yv = watts(600, rng)
    model = EnergyNet()
    opt = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(1, 901):
        b = torch.randint(0, len(x), (64,))
        loss = loss_in_megawatts(model(x[b]), y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 100 == 0:
            with torch.no_grad():
                v = (model(xv) - yv).pow(2).mean().item()
            g = max(p.grad.abs().max().item() for p in model.parameters())
            print(
                f"{step} loss {loss.item():.3e} val mse {v:.4f} (variance {yv.var().item():.2f}) largest gradient {g:.1e}"
            )


main()
