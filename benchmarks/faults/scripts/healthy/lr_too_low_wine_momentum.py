"""Wine cultivars, perceptron, SGD with momentum."""

import argparse

import torch
from sklearn.datasets import load_wine
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--lr", type=float, default=2e-2)
args = parser.parse_args()
torch.manual_seed(args.seed)

x, y = load_wine(return_X_y=True)
x = torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32)
y = torch.tensor(y)
order = torch.randperm(len(x))
train, test = order[:140], order[140:]

model = nn.Sequential(nn.Linear(13, 32), nn.Tanh(), nn.Linear(32, 3))
opt = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
for epoch in range(50):
    for idx in train[torch.randperm(140)].split(20):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(model(x[idx]), y[idx])
        loss.backward()
        opt.step()
    if epoch % 10 == 9:
        model.eval()
        with torch.no_grad():
            valid = nn.functional.cross_entropy(model(x[test]), y[test])
        model.train()
        print(f"{epoch + 1} train {loss:.4f} valid {valid:.4f}")
