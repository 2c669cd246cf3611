"""Noisy regression, one example after another at a rate for batches, over a fixed number of epochs."""

import argparse

import torch
from sklearn.datasets import make_friedman3
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
seed = parser.parse_args().seed
torch.manual_seed(seed)
table, values = make_friedman3(600, noise=0.1, random_state=seed)
x = torch.tensor((table - table.mean(0)) / table.std(0), dtype=torch.float32)
y = torch.tensor((values - values.mean()) / values.std(), dtype=torch.float32)
loader = DataLoader(TensorDataset(x, y), batch_size=1, shuffle=True)
net = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.SGD(net.parameters(), lr=0.15)
for epoch in range(2):
    for inputs, targets in loader:
        loss = nn.functional.mse_loss(net(inputs).squeeze(1), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
