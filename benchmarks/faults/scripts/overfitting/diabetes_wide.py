import argparse

import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

p = argparse.ArgumentParser()
p.add_argument("--seed", type=int, default=0)
p.add_argument("--epochs", type=int, default=80)
args = p.parse_args()
torch.manual_seed(args.seed)

X, y = load_diabetes(return_X_y=True)
Xtr, Xva, ytr, yva = train_test_split(X, y, test_size=0.4, random_state=args.seed)
sx = StandardScaler().fit(Xtr)
Xtr, Xva = torch.tensor(sx.transform(Xtr), dtype=torch.float32), torch.tensor(sx.transform(Xva), dtype=torch.float32)
m, s = ytr.mean(), ytr.std()
ytr, yva = torch.tensor((ytr - m) / s, dtype=torch.float32), torch.tensor((yva - m) / s, dtype=torch.float32)

model = nn.Sequential(nn.Linear(10, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 1), nn.Flatten(0))
opt = torch.optim.Adam(model.parameters(), lr=1e-3)
loss_fn = nn.MSELoss()
best = np.inf
for epoch in range(args.epochs):
    losses = []
    for idx in torch.randperm(len(Xtr)).split(32):
        opt.zero_grad()
        loss = loss_fn(model(Xtr[idx]), ytr[idx])
        loss.backward()
        opt.step()
        losses.append(loss.item())
    with torch.no_grad():
        val = loss_fn(model(Xva), yva).item()
    best = min(best, val)
    if epoch % 10 == 9:
        print(f"epoch {epoch + 1} train {np.mean(losses):.3f} val {val:.3f}")
print(f"best val {best:.3f} last val {val:.3f}")
