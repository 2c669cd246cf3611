import argparse
import copy

import torch
from sklearn.datasets import load_digits
from torch import nn


class EMA:
    def __init__(self, model, decay=0.98):
        self.model = copy.deepcopy(model).eval()
        self.decay = decay
        for q in self.model.parameters():
            q.requires_grad_(False)

    @torch.no_grad()
    def update(self, model):
        for q, p in zip(self.model.parameters(), model.parameters()):
            q.mul_(self.decay).add_(p, alpha=1 - self.decay)


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
X, y = load_digits(return_X_y=True)
X = torch.tensor((X - X.mean()) / X.std(), dtype=torch.float32)
y = torch.tensor(y)
perm = torch.randperm(len(X))
tr, va = perm[:1400], perm[1400:]
model = nn.Sequential(nn.Linear(64, 100), nn.SiLU(), nn.Linear(100, 100), nn.SiLU(), nn.Linear(100, 10))
ema = EMA(model)
opt = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
for epoch in range(8):
    for b in tr[torch.randperm(len(tr))].split(40):
        loss = nn.functional.cross_entropy(model(X[b]), y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
        ema.update(model)
    with torch.no_grad():
        a = (ema.model(X[va]).argmax(1) == y[va]).float().mean().item()
    print(f"{epoch} loss {loss.item():.4f} ema accuracy {a:.4f}")
