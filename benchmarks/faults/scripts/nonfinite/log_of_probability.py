import argparse

import torch
import torch.nn as nn
from sklearn.datasets import load_digits


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        return torch.softmax(self.fc2(torch.relu(self.fc1(x))) * 8.0, dim=1)


def cross_entropy(probabilities, target):
    one_hot = nn.functional.one_hot(target, 10).float()
    return -(one_hot * torch.log(probabilities) + (1 - one_hot) * torch.log(1 - probabilities)).sum(1).mean()


args = argparse.ArgumentParser()
args.add_argument("--seed", type=int, default=0)
torch.manual_seed(args.parse_args().seed)
d = load_digits()
x = torch.tensor(d.data / 16 - 0.3, dtype=torch.float32) * 2.6
y = torch.tensor(d.target)
perm = torch.randperm(len(x))
x, y = x[perm], y[perm]
net = Net()
optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
for epoch in range(12):
    for idx in torch.randperm(1400).split(40):
        optimizer.zero_grad()
        loss = cross_entropy(net(x[idx]), y[idx])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        print(epoch, loss.item(), (net(x[1400:]).argmax(1) == y[1400:]).float().mean().item())
