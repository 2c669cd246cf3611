import argparse

import torch
import torch.nn as nn
from sklearn.datasets import load_digits

ap = argparse.ArgumentParser()
ap.add_argument("--seed", type=int, default=0)
args = ap.parse_args()
torch.manual_seed(args.seed)

data = load_digits()
x = torch.tensor(data.data).float()
x = (x - x.mean()) / x.std()
y = torch.tensor(data.target)
perm = torch.randperm(len(x))
tr, va = perm[:1400], perm[1400:]


def init(m):
    if isinstance(m, nn.Linear):
        nn.init.normal_(m.weight)
        nn.init.zeros_(m.bias)


body = nn.Sequential(nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 100), nn.Tanh())
body.apply(init)
head = nn.Linear(100, 10)
model = nn.Sequential(body, head)
opt = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
for epoch in range(25):
    for b in tr[torch.randperm(len(tr))].split(40):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(model(x[b]), y[b])
        loss.backward()
        opt.step()
    with torch.no_grad():
        o = model(x[va])
    print(
        epoch, loss.item(), nn.functional.cross_entropy(o, y[va]).item(), (o.argmax(1) == y[va]).float().mean().item()
    )
with torch.no_grad():
    h1 = body[1](body[0](x))
    h2 = body(x)
    print("share |h|>0.97:", (h1.abs() > 0.97).float().mean().item(), (h2.abs() > 0.97).float().mean().item())
