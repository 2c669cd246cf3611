"""Which module does a line of source belong to? Multi-hot words, almost all zero."""

import argparse
import ast as m0
import inspect
import random as m2
import re
import statistics as m1

import torch
import torch.nn as nn

p = argparse.ArgumentParser()
p.add_argument("--seed", type=int, default=0)
a = p.parse_args()
torch.manual_seed(a.seed)

rows, labels = [], []
for label, module in enumerate([m0, m1, m2]):
    lines = [re.findall(r"[A-Za-z_]{2,}", line.lower()) for line in inspect.getsource(module).splitlines()]
    words = [w for line in lines for w in line]
    for i in range(0, len(words) - 20, 10):
        rows.append(words[i : i + 20])
        labels.append(label)
vocab = {w: i for i, w in enumerate(sorted({w for row in rows for w in row}))}
x = torch.zeros(len(rows), len(vocab))
for i, row in enumerate(rows):
    for w in row:
        x[i, vocab[w]] = 1.0
y = torch.tensor(labels)
perm = torch.randperm(len(x))
x, y = x[perm], y[perm]
n = int(0.8 * len(x))
print(len(x), "snippets,", len(vocab), "words, density", x.mean().item())

model = nn.Sequential(nn.Linear(len(vocab), 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 3))
opt = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-4)
weights = 1.0 / torch.bincount(y[:n]).float()
loss_fn = nn.CrossEntropyLoss(weight=weights / weights.sum() * 3)
for epoch in range(8):
    model.train()
    for idx in torch.randperm(n).split(32):
        loss = loss_fn(model(x[idx]), y[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
    model.eval()
    with torch.no_grad():
        out = model(x[n:])
        print(
            epoch,
            round(loss.item(), 3),
            round(loss_fn(out, y[n:]).item(), 3),
            (out.argmax(1) == y[n:]).float().mean().item(),
        )
