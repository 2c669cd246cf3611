"""Two optimizers; only one of them is cleared."""

import argparse

import torch
from sklearn.datasets import load_wine
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
X, y = load_wine(return_X_y=True)
X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
y = torch.tensor(y)
perm = torch.randperm(len(X))
train, test = perm[:130], perm[130:]
body = nn.Sequential(nn.Linear(13, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh())
head = nn.Linear(16, 3)
body_opt = torch.optim.SGD(body.parameters(), lr=0.1, momentum=0.5)
head_opt = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.5)
for epoch in range(30):
    for idx in train[torch.randperm(130)].split(13):
        head_opt.zero_grad()
        loss = nn.functional.cross_entropy(head(body(X[idx])), y[idx])
        loss.backward()
        body_opt.step()
        head_opt.step()
    if epoch % 3 == 0:
        with torch.no_grad():
            acc = (head(body(X[test])).argmax(1) == y[test]).float().mean().item()
        print(epoch, loss.item(), acc)
