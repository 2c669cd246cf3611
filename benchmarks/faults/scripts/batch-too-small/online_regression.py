import argparse

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


def plant(n, seed):
    r = np.random.default_rng(seed)
    x = r.normal(size=(n, 10)).astype(np.float32)
    clean = np.sin(x[:, 0]) + 0.6 * x[:, 1] * x[:, 2] + 0.5 * np.tanh(2 * x[:, 3])
    y = clean + 1.0 * r.normal(size=n)
    return torch.tensor(x), torch.tensor(y, dtype=torch.float32), torch.tensor(clean, dtype=torch.float32)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--batch-size", type=int, default=2)
    ap.add_argument("--steps", type=int, default=1500)
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    x, y, _ = plant(40000, args.seed)
    xv, yv, cv = plant(1500, args.seed + 1)
    loader = DataLoader(TensorDataset(x, y), batch_size=args.batch_size, shuffle=True)
    model = nn.Sequential(nn.Linear(10, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 1))
    opt = torch.optim.SGD(model.parameters(), lr=0.03)
    it = iter(loader)
    vals = []
    for step in range(1, args.steps + 1):
        try:
            xb, yb = next(it)
        except StopIteration:
            it = iter(loader)
            xb, yb = next(it)
        loss = nn.functional.mse_loss(model(xb).squeeze(1), yb)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 50 == 0:
            with torch.no_grad():
                o = model(xv).squeeze(1)
                vals.append(nn.functional.mse_loss(o, yv).item())
            if step % 150 == 0:
                print(
                    f"{step} train {loss.item():.3f} val {vals[-1]:.3f} error to clean signal {nn.functional.mse_loss(o, cv).item():.3f}"
                )
    print(
        "validation over last checks: mean %.3f std %.3f; noise floor 1.0, variance %.3f"
        % (np.mean(vals[-10:]), np.std(vals[-10:]), yv.var().item())
    )


main()
