"""House prices from area (square metres), year of construction, distance (km) and rooms."""

import argparse

import numpy as np
import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
seed = parser.parse_args().seed
torch.manual_seed(seed)
rng = np.random.default_rng(seed)
n = 2000
area = rng.uniform(30, 250, n)
year = rng.integers(1900, 2024, n)
distance = rng.uniform(0.1, 30, n)
share = rng.uniform(0, 0.05, n)  # of the street that is green
price = 3 * area / 250 + (year - 1960) / 60 - distance / 15 + 30 * share + 0.1 * rng.standard_normal(n)
X = torch.tensor(np.stack([area, year, distance, share], 1), dtype=torch.float32)
t = torch.tensor((price - price.mean()) / price.std(), dtype=torch.float32).unsqueeze(1)
net = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
for epoch in range(12):
    for idx in torch.randperm(1600).split(50):
        loss = nn.functional.mse_loss(net(X[idx]), t[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        print(
            f"epoch {epoch} train {loss.item():.3f} test {nn.functional.mse_loss(net(X[1600:]), t[1600:]).item():.3f}"
        )
