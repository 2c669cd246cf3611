import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


def accuracy(model, x, y):
    with torch.no_grad():
        o = model(x)
    return nn.functional.cross_entropy(o, y).item(), (o.argmax(1) == y).float().mean().item()


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.manual_seed(args.seed)
data = load_digits()
x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 0.6
y = torch.tensor(data.target)
perm = torch.randperm(len(x))
train = DataLoader(TensorDataset(x[perm[:1400]], y[perm[:1400]]), batch_size=50, shuffle=True)
xv, yv = x[perm[1400:]], y[perm[1400:]]
model = nn.Sequential(
    nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 24, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 16, 10)
)
optimizer = optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=6, gamma=0.4)
for epoch in range(18):
    for xb, yb in train:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(xb), yb)
        loss.backward()
        optimizer.step()
        scheduler.step()
    l, a = accuracy(model, xv, yv)
    print(f"epoch {epoch} lr {scheduler.get_last_lr()[0]:.2e} val {l:.3f} acc {a:.3f}")
