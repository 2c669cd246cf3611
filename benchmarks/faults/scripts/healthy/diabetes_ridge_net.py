import argparse

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from torch import nn

parser = argparse.ArgumentParser(description="disease progression")
parser.add_argument("--seed", type=int, default=0)
opts = parser.parse_args()
rng = np.random.default_rng(opts.seed)
torch.manual_seed(opts.seed)

data = load_diabetes(scaled=False)
order = rng.permutation(len(data.target))
train, test = order[:340], order[340:]
mu, sd = data.data[train].mean(0), data.data[train].std(0)
t_mu, t_sd = data.target[train].mean(), data.target[train].std()
X = torch.tensor((data.data - mu) / sd, dtype=torch.float32)
t = torch.tensor((data.target - t_mu) / t_sd, dtype=torch.float32).unsqueeze(1)

net = nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.1)
mse = nn.MSELoss()
for epoch in range(30):
    for chunk in np.array_split(rng.permutation(train), 10):
        loss = mse(net(X[chunk]), t[chunk])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        held_out = mse(net(X[test]), t[test]).item()
    if epoch % 3 == 0:
        print(f"epoch {epoch} train mse {loss.item():.3f} test mse {held_out:.3f}")
