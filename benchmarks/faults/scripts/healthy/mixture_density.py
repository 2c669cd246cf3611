"""A mixture density network; the negative log-likelihood goes below zero."""

import argparse
import math

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)


def data(n):
    x = torch.rand(n, 1) * 2 - 1
    branch = torch.randint(0, 2, (n, 1)) * 2.0 - 1
    return x, branch * (0.5 + 0.3 * torch.cos(3 * x)) + 0.05 * torch.randn(n, 1)


class MDN(nn.Module):
    def __init__(self, k=3):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(1, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh())
        self.out = nn.Linear(48, 3 * k)

    def nll(self, x, y):
        weight, mean, log_std = self.out(self.trunk(x)).chunk(3, dim=1)
        log_std = log_std.clamp(-5, 3)
        logp = -0.5 * ((y - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
        return -torch.logsumexp(torch.log_softmax(weight, 1) + logp, 1).mean()


model = MDN()
opt = torch.optim.Adam(model.parameters(), lr=4e-3)
xv, yv = data(1000)
for step in range(700):
    loss = model.nll(*data(200))
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    opt.step()
    if step % 100 == 0:
        with torch.no_grad():
            print(step, f"{loss.item():.3f} held out {model.nll(xv, yv).item():.3f}")
