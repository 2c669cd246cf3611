import argparse

import torch
import torch.nn as nn
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import StandardScaler

ap = argparse.ArgumentParser()
ap.add_argument("--seed", type=int, default=0)
args = ap.parse_args()
torch.manual_seed(args.seed)

data = load_diabetes()
X = torch.tensor(StandardScaler().fit_transform(data.data), dtype=torch.float32)
y = torch.tensor((data.target - data.target.mean()) / data.target.std(), dtype=torch.float32)
perm = torch.randperm(len(X))
X, y = X[perm], y[perm]
Xtr, ytr, Xva, yva = X[:340], y[:340], X[340:], y[340:]

model = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 1))
opt = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-3)


def mse(pred, target):
    return ((pred - target) ** 2).mean()


for epoch in range(60):
    for idx in torch.randperm(340).split(34):
        opt.zero_grad()
        loss = mse(model(Xtr[idx]), ytr[idx])
        loss.backward()
        opt.step()
    if epoch % 10 == 9:
        with torch.no_grad():
            print(epoch + 1, f"train {loss.item():.3f} val {mse(model(Xva), yva).item():.3f}")
with torch.no_grad():
    pv = model(Xva).reshape(-1)
    print(
        "R2 on validation",
        (1 - (pv - yva.reshape(-1)).square().sum() / (yva - yva.mean()).square().sum()).item(),
        "std of predictions",
        pv.std().item(),
    )
