import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class DeepNet(nn.Module):
    def __init__(self, widths=(64, 96, 96, 48), classes=10):
        super().__init__()
        self.layers = [nn.Linear(i, o) for i, o in zip(widths[:-1], widths[1:])]
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.head(x)


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--epochs", type=int, default=8)
args = parser.parse_args()
torch.manual_seed(args.seed)
X, y = load_digits(return_X_y=True)
X = torch.tensor((X - X.mean()) / X.std(), dtype=torch.float32)
y = torch.tensor(y)
order = torch.randperm(len(X))
train, test = order[:1400], order[1400:]
model = DeepNet()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(args.epochs):
    for idx in train[torch.randperm(1400)].split(32):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X[idx]), y[idx])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        print(epoch, loss.item(), (model(X[test]).argmax(1) == y[test]).float().mean().item())
