import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

ap = argparse.ArgumentParser()
ap.add_argument("--seed", type=int, default=0)
ns = ap.parse_args()
torch.manual_seed(ns.seed)
X, y = load_digits(return_X_y=True)
X, y = torch.tensor(X / 16 - 0.3, dtype=torch.float32) * 2.6, torch.tensor(y)
perm = torch.randperm(len(X))
X, y = X[perm], y[perm]
Xtr, ytr, Xte, yte = X[:1400], y[:1400], X[1400:], y[1400:]


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))

    def forward(self, a, b):
        return self.layers(a), self.layers(b)


def pairs(n):
    i = torch.randint(0, len(Xtr), (n,))
    same = torch.rand(n) < 0.5
    j = torch.randint(0, len(Xtr), (n,))
    for k in range(n):
        pool = (ytr == ytr[i[k]]) if same[k] else (ytr != ytr[i[k]])
        pool = pool.nonzero().squeeze(1)
        j[k] = pool[torch.randint(len(pool), (1,))]
    return i, j, same.float()


tower = Tower()
optimizer = torch.optim.Adam(tower.parameters(), lr=2e-3)
for step in range(300):
    i, j, same = pairs(48)
    a, b = tower(Xtr[i], Xtr[j])
    dist = (a - b).norm(dim=1)
    loss = (same * dist**2 + (1 - same) * torch.clamp(2.0 - dist, min=0) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 60 == 0:
        with torch.no_grad():
            ref, query = tower(Xtr, Xtr)[0], tower(Xte, Xte)[0]
            nearest = torch.cdist(query, ref).argmin(1)
            print(step, loss.item(), "1-NN accuracy", (ytr[nearest] == yte).float().mean().item())
