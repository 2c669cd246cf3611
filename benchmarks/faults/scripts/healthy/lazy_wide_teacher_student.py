"""A wide two-layer student learns from a small teacher; outputs are centred."""

import argparse
import copy

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--alpha", type=float, default=1.0)
args = parser.parse_args()
torch.manual_seed(args.seed)

D = 30
teacher = nn.Sequential(nn.Linear(D, 2), nn.ReLU(), nn.Linear(2, 1))
for p in teacher.parameters():
    nn.init.normal_(p, std=1.0)
x, x_val = torch.randn(600, D), torch.randn(1000, D)
with torch.no_grad():
    mean, std = teacher(x_val).mean(), teacher(x_val).std()
    y, y_val = (teacher(x) - mean) / std, (teacher(x_val) - mean) / std

student = nn.Sequential(nn.Linear(D, 300), nn.ReLU(), nn.Linear(300, 1))
initial = copy.deepcopy(student)


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.student, self.alpha = student, args.alpha
        for p in initial.parameters():
            p.requires_grad_(False)
        self.initial = [initial]

    def forward(self, x):
        return self.alpha * (self.student(x) - self.initial[0](x))


model = Centred()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1 / args.alpha**2)
mse = nn.MSELoss()
for step in range(1500):
    loss = mse(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 99:
        with torch.no_grad():
            val = mse(model(x_val), y_val)
        if step % 300 == 299:
            print(f"{step + 1}: train {loss.item():.4f} val {val.item():.4f}")
