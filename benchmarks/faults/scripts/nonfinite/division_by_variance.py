"""Heteroscedastic regression: the network predicts a mean and a variance."""

import argparse

import torch
from torch import nn


class Gaussian(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.mean, self.var = nn.Linear(64, 1), nn.Linear(64, 1)

    def forward(self, x):
        h = self.body(x)
        return self.mean(h), torch.relu(self.var(h))


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
x = torch.rand(2000, 1) * 4 - 2
y = torch.sin(2 * x) + 0.3 * x.abs() * torch.randn_like(x)
model = Gaussian()
nn.init.constant_(model.var.bias, 1.0)
opt = torch.optim.Adam(model.parameters(), lr=2e-3)
for epoch in range(12):
    for idx in torch.randperm(2000).split(64):
        mean, var = model(x[idx])
        loss = (0.5 * var.log() + 0.5 * (y[idx] - mean) ** 2 / var).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(f"epoch {epoch} nll {loss.item():.4f}")
