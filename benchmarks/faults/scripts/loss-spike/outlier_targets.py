import argparse

import numpy as np
import torch
from sklearn.datasets import make_friedman1
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.manual_seed(args.seed)
rng = np.random.default_rng(args.seed)
X, y = make_friedman1(4000, n_features=8, noise=0.3, random_state=args.seed)
X, y = (X - 0.5) * 3.46, (y - y.mean()) / y.std()
X = torch.tensor(X, dtype=torch.float32)
y = torch.tensor(y, dtype=torch.float32).unsqueeze(1)
y[2400:2560] *= 40.0  # an export error: decimals moved
model = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
opt = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(6):
    for i in range(0, 3600, 40):  # in the order of time
        loss = nn.functional.mse_loss(model(X[i : i + 40]), y[i : i + 40])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        print(epoch, loss.item(), nn.functional.mse_loss(model(X[3600:]), y[3600:]).item())
