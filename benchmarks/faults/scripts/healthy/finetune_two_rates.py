"""Fine-tuning with a small learning rate for the old layers and a larger one for the new head."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
d = load_digits()
x = torch.tensor(d.data / 16, dtype=torch.float32)
x = (x - 0.305) / 0.376
y = torch.tensor(d.target)
perm = torch.randperm(len(x))
x, y = x[perm], y[perm]


class Model(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        return self.head(self.trunk(x))


model = Model(2)
opt = torch.optim.Adam(model.parameters(), lr=1e-3)
for step in range(120):
    i = torch.randint(0, 1400, (64,))
    loss = nn.functional.cross_entropy(model(x[i]), y[i] % 2)
    opt.zero_grad()
    loss.backward()
    opt.step()
print("odd or even:", loss.item())

model.head = nn.Linear(64, 10)
opt = torch.optim.Adam(
    [{"params": model.trunk.parameters(), "lr": 2e-4}, {"params": model.head.parameters(), "lr": 3e-3}]
)
for epoch in range(10):
    for i in torch.randperm(1400).split(64):
        loss = nn.functional.cross_entropy(model(x[i]), y[i])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        acc = (model(x[1400:]).argmax(1) == y[1400:]).float().mean().item()
    print(f"epoch {epoch} {loss.item():.4f} {acc:.4f}")
