"""Multi-label tags: which of six patterns are mixed into a noisy signal."""

import argparse

import torch
import torch.nn as nn

ap = argparse.ArgumentParser()
ap.add_argument("--seed", type=int, default=0)
ns = ap.parse_args()
g = torch.Generator().manual_seed(ns.seed)
torch.manual_seed(ns.seed)

N, T, K = 3000, 64, 6
t = torch.linspace(0, 1, T)
patterns = torch.stack([torch.sin(2 * torch.pi * (k + 2) * t + k) for k in range(K)])
tags = (torch.rand(N, K, generator=g) < 0.35).float()
signals = tags @ patterns + 0.8 * torch.randn(N, T, generator=g)
train_x, train_y, test_x, test_y = signals[:2400], tags[:2400], signals[2400:], tags[2400:]


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 16, 9, stride=2, padding=4)
        self.fc1 = nn.Linear(16 * 32, 64)
        self.fc2 = nn.Linear(64, K)

    def forward(self, x):
        h = torch.relu(self.conv(x.unsqueeze(1))).flatten(1)
        h = torch.relu(self.fc1(h))
        return torch.sigmoid(self.fc2(h))


model = Tagger()
criterion = nn.BCEWithLogitsLoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(6):
    perm = torch.randperm(len(train_x))
    for i in range(0, len(perm), 64):
        b = perm[i : i + 64]
        loss = criterion(model(train_x[b]), train_y[b])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        p = model(test_x)
        f = ((p > 0.5) == (test_y > 0.5)).float().mean()
    print("epoch", epoch, "loss", round(loss.item(), 4), "tags right", round(f.item(), 4))
