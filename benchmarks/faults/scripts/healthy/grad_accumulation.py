import argparse

import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--accumulate", type=int, default=4)
args = parser.parse_args()
torch.manual_seed(args.seed)
d = load_digits()
x = torch.tensor(d.images, dtype=torch.float32).unsqueeze(1) / 8 - 0.6
y = torch.tensor(d.target)
p = torch.randperm(len(x))
train = DataLoader(TensorDataset(x[p[:1400]], y[p[:1400]]), batch_size=14, shuffle=True)
xv, yv = x[p[1400:]], y[p[1400:]]
model = nn.Sequential(
    nn.Conv2d(1, 12, 3, padding=1),
    nn.GroupNorm(3, 12),
    nn.ReLU(),
    nn.Conv2d(12, 24, 3, stride=2, padding=1),
    nn.GroupNorm(3, 24),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(24 * 16, 10),
)
opt = torch.optim.AdamW(model.parameters(), lr=1.5e-3)
crit = nn.CrossEntropyLoss()
for epoch in range(8):
    model.train()
    opt.zero_grad()
    total = 0
    for i, (xb, yb) in enumerate(train):
        loss = crit(model(xb), yb)
        (loss / args.accumulate).backward()
        total += loss.item()
        if (i + 1) % args.accumulate == 0:
            opt.step()
            opt.zero_grad()
    model.eval()
    with torch.no_grad():
        o = model(xv)
    print(
        f"epoch {epoch} train {total / len(train):.3f} val {crit(o, yv).item():.3f} acc {(o.argmax(1) == yv).float().mean().item():.3f}"
    )
