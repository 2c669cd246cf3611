"""Fit a curve through a few noisy points with a network."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=1500)
args = parser.parse_args()
torch.manual_seed(args.seed)


def sample(count):
    x = torch.rand(count, 6) * 2 - 1
    y = x[:, :1] ** 3 - x[:, 1:2] * x[:, :1] + 0.5 * torch.randn(count, 1)
    return x, y


x_train, y_train = sample(40)
x_val, y_val = sample(400)

model = nn.Sequential(nn.Linear(6, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
mse = nn.MSELoss()
for step in range(args.steps):
    optimizer.zero_grad()
    loss = mse(model(x_train), y_train)
    loss.backward()
    optimizer.step()
    if step % 100 == 99:
        with torch.no_grad():
            val = mse(model(x_val), y_val)
        if step % 500 == 499:
            print(f"step {step + 1}: train {loss.item():.4f} val {val.item():.4f}")
