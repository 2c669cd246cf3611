"""Digits labelled by volunteers; a held-out set was checked by hand."""

import argparse

import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def volunteers(labels, rng, careless=0.35):
    """What the volunteers wrote down."""
    labels = labels.copy()
    for i in range(len(labels)):
        if rng.rand() < careless:
            labels[i] = rng.randint(10)
    return labels


def evaluate(model, loader, criterion):
    model.eval()
    total = hits = count = 0
    with torch.no_grad():
        for x, y in loader:
            out = model(x)
            total += criterion(out, y).item() * len(y)
            hits += (out.argmax(1) == y).sum().item()
            count += len(y)
    model.train()
    return total / count, hits / count


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--epochs", type=int, default=25)
args = parser.parse_args()
torch.manual_seed(args.seed)
rng = np.random.RandomState(args.seed)

digits = load_digits()
x = torch.tensor(digits.data / 16 - 0.3, dtype=torch.float32)
order = rng.permutation(len(x))
train, test = order[:1300], order[1300:]
y_train = torch.tensor(volunteers(digits.target[train], rng))
train_loader = DataLoader(TensorDataset(x[train], y_train), batch_size=32, shuffle=True)
test_loader = DataLoader(TensorDataset(x[test], torch.tensor(digits.target[test])), batch_size=500)

model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(args.epochs):
    for xb, yb in train_loader:
        optimizer.zero_grad()
        loss = criterion(model(xb), yb)
        loss.backward()
        optimizer.step()
    val_loss, val_acc = evaluate(model, test_loader, criterion)
    if epoch % 4 == 0:
        print(f"epoch {epoch:2d}: last loss {loss.item():.3f}, test loss {val_loss:.3f}, test accuracy {val_acc:.3f}")
