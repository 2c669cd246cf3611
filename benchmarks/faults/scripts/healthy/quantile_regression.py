import argparse

import torch
import torch.nn as nn


def pinball(pred, y, taus):
    diff = y - pred
    return torch.maximum(taus * diff, (taus - 1) * diff).mean()


def sample(n):
    x = torch.rand(n, 1) * 4 - 2
    return x, torch.sin(1.5 * x) + (0.1 + 0.2 * x.abs()) * torch.randn(n, 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    taus = torch.tensor([0.1, 0.5, 0.9])
    model = nn.Sequential(nn.Linear(1, 64), nn.ELU(), nn.Linear(64, 64), nn.ELU(), nn.Linear(64, 3))
    opt = torch.optim.NAdam(model.parameters(), lr=2e-3)
    xv, yv = sample(2000)
    for step in range(args.steps):
        x, y = sample(128)
        loss = pinball(model(x), y, taus)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 100 == 0:
            with torch.no_grad():
                below = (yv < model(xv)).float().mean(0)
            print(step, round(loss.item(), 4), "coverage", [round(b, 3) for b in below.tolist()])
