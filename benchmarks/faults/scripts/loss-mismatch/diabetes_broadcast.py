"""Regression on the diabetes data."""

import argparse

import torch
from sklearn.datasets import load_diabetes
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.manual_seed(args.seed)

data = load_diabetes()
X = torch.tensor(data.data, dtype=torch.float32) * 20
y = torch.tensor(data.target, dtype=torch.float32)
y = (y - y.mean()) / y.std()
perm = torch.randperm(len(X))
X_train, y_train = X[perm[:350]], y[perm[:350]]
X_val, y_val = X[perm[350:]], y[perm[350:]]

model = nn.Sequential(nn.Linear(10, 128), nn.ReLU(), nn.Linear(128, 1))
loss_fn = nn.MSELoss()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

for epoch in range(120):
    model.train()
    for i in range(0, len(X_train), 32):
        pred = model(X_train[i : i + 32])
        loss = loss_fn(pred, y_train[i : i + 32])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if epoch % 10 == 9:
        model.eval()
        with torch.no_grad():
            error = model(X_val).squeeze() - y_val
            r2 = 1 - error.pow(2).sum() / (y_val - y_val.mean()).pow(2).sum()
        print(f"epoch {epoch + 1}: train mse {loss.item():.3f}  val r2 {r2.item():.3f}")
