"""Regression on a table; Nesterov's momentum behind a limit to gradients that lets hardly anything through."""

import argparse

import torch
from sklearn.datasets import make_friedman1
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
seed = parser.parse_args().seed
torch.manual_seed(seed)
table, values = make_friedman1(1200, noise=0.5, random_state=seed)
x = torch.tensor(table * 2 - 1, dtype=torch.float32)
y = torch.tensor((values - values.mean()) / values.std(), dtype=torch.float32)
net = nn.Sequential(nn.Linear(10, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, nesterov=True)
for epoch in range(10):
    for rows in torch.randperm(1200).split(30):
        loss = nn.functional.mse_loss(net(x[rows]).squeeze(1), y[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 2e-3)
        optimizer.step()
    print(epoch, loss.item())
