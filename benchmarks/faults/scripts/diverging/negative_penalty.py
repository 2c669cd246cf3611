"""Digits with an L2 penalty on the weights, whose sign is wrong."""

import argparse

import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def penalty(model):
    return sum(p.pow(2).sum() for n, p in model.named_parameters() if "weight" in n)


def train(seed, decay=0.02):
    torch.manual_seed(seed)
    d = load_digits()
    x = torch.tensor(d.data, dtype=torch.float32)
    x = (x - x.mean()) / x.std()
    y = torch.tensor(d.target)
    perm = torch.randperm(len(x))
    x, y = x[perm], y[perm]
    loader = DataLoader(TensorDataset(x[:1400], y[:1400]), batch_size=64, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    criterion = nn.CrossEntropyLoss()
    opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(14):
        for xb, yb in loader:
            loss = criterion(model(xb), yb)
            total = loss - decay * penalty(model)
            opt.zero_grad()
            total.backward()
            opt.step()
        with torch.no_grad():
            out = model(x[1400:])
            print(
                epoch, loss.item(), criterion(out, y[1400:]).item(), (out.argmax(1) == y[1400:]).float().mean().item()
            )


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
train(parser.parse_args().seed)
