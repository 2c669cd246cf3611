import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F


class ResNetTab(nn.Module):
    def __init__(self, d_in, d=64, n_layers=4):
        super().__init__()
        self.inp = nn.Linear(d_in, d)
        self.layers = [nn.Linear(d, d) for _ in range(n_layers)]
        self.norm = nn.LayerNorm(d)
        self.out = nn.Linear(d, 3)

    def forward(self, x):
        h = F.relu(self.inp(x))
        for l in self.layers:
            h = F.relu(l(h))
        return self.out(self.norm(h))


def make(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 4, generator=g) * 2 - 1
    r = (x[:, 0] ** 2 + x[:, 1] ** 2).sqrt()
    a = torch.atan2(x[:, 1], x[:, 0])
    y = ((torch.sin(7 * r + 2 * a) + x[:, 2] * x[:, 3]) > 0.3).long() + (
        (torch.sin(7 * r + 2 * a) + x[:, 2] * x[:, 3]) > -0.3
    ).long()
    return x, y


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.manual_seed(args.seed)
x, y = make(4000, 1)
xv, yv = make(1000, 2)
model = ResNetTab(4)
start = [l.weight.detach().clone() for l in model.layers]
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
step = 0
for epoch in range(20):
    for b in torch.randperm(len(x)).split(64):
        loss = F.cross_entropy(model(x[b]), y[b])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
    with torch.no_grad():
        o = model(xv)
    print(
        epoch,
        f"train {loss.item():.3f} val {F.cross_entropy(o, yv).item():.3f} acc {(o.argmax(1) == yv).float().mean().item():.3f}",
    )
print(
    "moved:",
    [round((l.weight.detach() - s).norm().item(), 4) for l, s in zip(model.layers, start)],
    "parameters in optimizer:",
    sum(p.numel() for g in optimizer.param_groups for p in g["params"]),
)
