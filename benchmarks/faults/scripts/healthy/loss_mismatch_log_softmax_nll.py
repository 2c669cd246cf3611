"""Three-layer perceptron on scikit-learn's digits."""

import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--lr", type=float, default=0.1)
args = parser.parse_args()
torch.manual_seed(args.seed)

digits = load_digits()
x = torch.tensor(digits.data / 16.0, dtype=torch.float32)
y = torch.tensor(digits.target)
order = torch.randperm(len(x))
train, test = order[:1400], order[1400:]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 256)
        self.fc2 = nn.Linear(256, 256)
        self.fc3 = nn.Linear(256, 10)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return F.log_softmax(self.fc3(x), dim=1)


net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=args.lr)
for epoch in range(1, 16):
    for idx in train[torch.randperm(len(train))].split(64):
        optimizer.zero_grad()
        output = net(x[idx])
        loss = F.nll_loss(output, y[idx])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        pred = net(x[test]).argmax(dim=1)
    print(f"Train Epoch: {epoch}\tLoss: {loss.item():.6f}\tAccuracy: {(pred == y[test]).float().mean().item():.3f}")
