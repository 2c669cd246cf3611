import argparse

import torch
import torch.nn as nn
from sklearn.datasets import make_friedman1


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.kaiming_normal_(self.a.weight)
        nn.init.kaiming_normal_(self.b.weight)

    def forward(self, x):
        return x + self.b(torch.relu(self.a(x)))


class Stack(nn.Module):
    """Residual blocks without normalisation."""

    def __init__(self, width=48, depth=14):
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(depth)])
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.manual_seed(args.seed)
X, y = make_friedman1(2500, n_features=8, noise=0.2, random_state=args.seed)
X = torch.tensor((X - 0.5) * 3.46, dtype=torch.float32)
y = torch.tensor((y - y.mean()) / y.std(), dtype=torch.float32).unsqueeze(1)
model = Stack()
opt = torch.optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(5):
    for idx in torch.randperm(2000).split(50):
        loss = nn.functional.mse_loss(model(X[idx]), y[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        print(epoch, loss.item(), nn.functional.mse_loss(model(X[2000:]), y[2000:]).item())
