"""Biopsies and their diagnoses."""

import argparse

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.nn import functional as F


def load(seed, swapped):
    data = load_breast_cancer()
    rng = np.random.default_rng(seed)
    x = (data.data - data.data.mean(0)) / data.data.std(0)
    order = rng.permutation(len(x))
    x, y = x[order], data.target[order].copy()
    wrong = rng.random(400) < swapped
    y[:400][wrong] = 1 - y[:400][wrong]
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(30, 64), nn.Linear(64, 2)

    def forward(self, x):
        return self.b(F.relu(self.a(x)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--swapped", type=float, default=0.0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    x, y = load(args.seed, args.swapped)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(12):
        model.train()
        for idx in torch.randperm(400).split(16):
            loss = F.cross_entropy(model(x[idx]), y[idx])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            logits = model(x[400:])
            val = F.cross_entropy(logits, y[400:]).item()
            right = (logits.argmax(1) == y[400:]).float().mean().item()
        if epoch % 3 == 2:
            print(f"{epoch + 1}: {loss.item():.3f}, checked ones {val:.3f}, {right:.3f} right")


if __name__ == "__main__":
    main()
