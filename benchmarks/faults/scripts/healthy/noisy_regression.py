import argparse

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def sample(n, seed):
    r = np.random.default_rng(seed)
    x = r.normal(size=(n, 6))
    f = 0.6 * np.sin(1.5 * x[:, 0]) + 0.4 * x[:, 1] + 0.3 * np.abs(x[:, 2])
    y = f + r.normal(size=n)
    to = lambda a: torch.tensor(a, dtype=torch.float32)
    return to(x), to(y), to(f)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    seed = p.parse_args().seed
    torch.manual_seed(seed)
    x, y, _ = sample(8000, seed)
    xv, yv, fv = sample(2000, seed + 1000)
    model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 1), nn.Flatten(0))
    opt = torch.optim.RMSprop(model.parameters(), lr=5e-3)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 10)
    mse = nn.MSELoss()
    for epoch in range(10):
        s = 0
        for a, b in DataLoader(TensorDataset(x, y), batch_size=100, shuffle=True):
            loss = mse(model(a), b)
            opt.zero_grad()
            loss.backward()
            opt.step()
            s += loss.item() / 80
        sched.step()
        with torch.no_grad():
            o = model(xv)
        print(
            f"epoch {epoch} train {s:.4f} val {mse(o, yv).item():.4f} error to signal {mse(o, fv).item():.4f} (noise 1.0)"
        )


main()
