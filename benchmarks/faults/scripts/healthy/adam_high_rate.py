import argparse

import numpy as np
import torch
import torch.nn.functional as F


class Ridge(torch.nn.Module):
    def __init__(self, d, feats=200):
        super().__init__()
        self.register_buffer("w", torch.randn(d, feats))
        self.register_buffer("b", 6.28 * torch.rand(feats))
        self.lin = torch.nn.Linear(feats, 1)

    def forward(self, x):
        return self.lin(torch.cos(x @ self.w * 0.6 + self.b)).squeeze(-1)


def make(n, rng):
    x = rng.normal(size=(n, 4))
    y = np.sin(x[:, 0]) + 0.5 * np.cos(2 * x[:, 1]) + 0.3 * x[:, 2] + 0.1 * rng.normal(size=n)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    torch.manual_seed(a.seed)
    rng = np.random.default_rng(a.seed)
    x, y = make(4000, rng)
    xv, yv = make(1000, rng)
    model = Ridge(4)
    opt = torch.optim.Adam(model.parameters(), lr=0.05)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=900)
    for step in range(1, 901):
        i = torch.randint(0, 4000, (100,))
        loss = F.mse_loss(model(x[i]), y[i])
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
        if step % 100 == 0:
            with torch.no_grad():
                print(
                    step,
                    f"train {loss.item():.4f} val {F.mse_loss(model(xv), yv).item():.4f} variance {yv.var().item():.2f}",
                )


main()
