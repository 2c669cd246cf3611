"""Metric learning with a Euclidean distance written by hand."""

import argparse

import numpy as np
import torch
from sklearn.datasets import load_iris
from torch import nn


def distance(a, b):
    return torch.sqrt(((a - b) ** 2).sum(1))


def main(seed):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    iris = load_iris()
    X = torch.tensor((iris.data - iris.data.mean(0)) / iris.data.std(0), dtype=torch.float32)
    y = iris.target
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for step in range(400):
        i = torch.from_numpy(rng.integers(0, 150, 8))
        j = torch.from_numpy(rng.integers(0, 150, 8))
        same = torch.tensor(y[i.numpy()] == y[j.numpy()]).float()
        dist = distance(net(X[i]), net(X[j]))
        loss = (same * dist.square() + (1 - same) * (1.5 - dist).clamp(min=0).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(step, loss.item())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args().seed)
