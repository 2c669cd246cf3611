import argparse

import torch
from sklearn.datasets import load_diabetes
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--lr", type=float, default=3e-3)
args = parser.parse_args()
torch.manual_seed(args.seed)
X, t = load_diabetes(return_X_y=True)
X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
t = torch.tensor((t - t.mean()) / t.std(), dtype=torch.float32).unsqueeze(1)
model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, maximize=True)
for epoch in range(20):
    for idx in torch.randperm(350).split(32):
        loss = nn.functional.mse_loss(model(X[idx]), t[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        print(
            f"epoch {epoch}: train {loss.item():.4f} test {nn.functional.mse_loss(model(X[350:]), t[350:]).item():.4f}"
        )
