import argparse

import torch
from torch import nn


class DeepSets(nn.Module):
    """Predicts mean, spread and largest of a set of numbers, whatever their order."""

    def __init__(self):
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(1, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU())
        self.rho = nn.Sequential(nn.Linear(128, 64), nn.GELU(), nn.Linear(64, 3))

    def forward(self, x):
        h = self.phi(x.unsqueeze(-1))
        return self.rho(torch.cat([h.mean(1), h.amax(1)], 1))


def batch(n=128):
    x = torch.randn(n, 12) * (0.3 + torch.rand(n, 1)) + torch.randn(n, 1) * 0.5
    return x, torch.stack([x.mean(1), x.std(1), x.amax(1)], 1)


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
model = DeepSets()
opt = torch.optim.Adam(model.parameters(), lr=2e-3)
sched = torch.optim.lr_scheduler.StepLR(opt, 200, 0.3)
for it in range(500):
    x, t = batch()
    loss = (model(x) - t).square().mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    sched.step()
    if it % 100 == 0:
        print(it, loss.item())
