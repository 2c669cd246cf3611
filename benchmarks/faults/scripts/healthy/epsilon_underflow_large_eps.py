"""Digits with a small convolutional network."""

import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16 * 16, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(x.flatten(1))


def train(model, x, y, steps, batch, optimizer):
    for step in range(steps):
        idx = torch.randint(len(x), (batch,))
        loss = F.cross_entropy(model(x[idx]), y[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 40 == 0:
            print("step", step, "loss", round(loss.item(), 4))


if __name__ == "__main__":
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--eps", type=float, default=1e-8)
    args = cli.parse_args()
    torch.manual_seed(args.seed)
    raw, target = load_digits(return_X_y=True)
    images = torch.tensor(raw, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    target = torch.tensor(target)
    net = Net()
    train(net, images[:1400], target[:1400], 240, 64, torch.optim.Adam(net.parameters(), lr=2e-3, eps=args.eps))
    with torch.no_grad():
        print("test accuracy", (net(images[1400:]).argmax(1) == target[1400:]).float().mean().item())
