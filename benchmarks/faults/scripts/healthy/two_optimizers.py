import argparse

import torch
import torch.nn as nn
from sklearn.datasets import load_digits

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)

d = load_digits()
x = torch.tensor(d.data, dtype=torch.float32)
x = (x - x.mean()) / x.std()
y = torch.tensor(d.target)
perm = torch.randperm(len(x))
x, y = x[perm], y[perm]
xtr, ytr, xva, yva = x[:1400], y[:1400], x[1400:], y[1400:]

body = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 48), nn.GELU())
head = nn.Linear(48, 10)
opt_body = torch.optim.AdamW(body.parameters(), lr=1e-3, weight_decay=0.01)
opt_head = torch.optim.SGD(head.parameters(), lr=0.05, momentum=0.9)
for epoch in range(10):
    idx = torch.randperm(len(xtr))
    for batch in idx.split(50):
        logits = head(body(xtr[batch]))
        loss = nn.functional.cross_entropy(logits, ytr[batch])
        opt_body.zero_grad()
        opt_head.zero_grad()
        loss.backward()
        opt_body.step()
        opt_head.step()
    with torch.no_grad():
        out = head(body(xva))
        print(
            epoch,
            f"{loss.item():.4f}",
            f"{nn.functional.cross_entropy(out, yva).item():.4f}",
            (out.argmax(1) == yva).float().mean().item(),
        )
