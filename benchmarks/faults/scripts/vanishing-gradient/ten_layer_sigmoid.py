import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--depth", type=int, default=10)
args = parser.parse_args()
torch.manual_seed(args.seed)
X, y = load_digits(return_X_y=True)
X = torch.tensor((X - X.mean()) / X.std(), dtype=torch.float32)
y = torch.tensor(y)
perm = torch.randperm(len(X))
X, y = X[perm], y[perm]
layers = []
width = 64
for _ in range(args.depth):
    layers += [nn.Linear(width, 48), nn.Sigmoid()]
    width = 48
model = nn.Sequential(*layers, nn.Linear(48, 10))
opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for epoch in range(8):
    for idx in torch.randperm(1400).split(40):
        loss = nn.functional.cross_entropy(model(X[idx]), y[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        print(epoch, loss.item(), (model(X[1400:]).argmax(1) == y[1400:]).float().mean().item())
