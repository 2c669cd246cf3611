"""Handwritten digits, one folder (class) after the other."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--epochs", type=int, default=12)
args = parser.parse_args()
torch.manual_seed(args.seed)

digits = load_digits()
x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16 - 0.3
y = torch.tensor(digits.target)
perm = torch.randperm(len(x))
train_idx, val_idx = perm[:1400], perm[1400:]

# collect the training examples class by class
by_class = torch.cat([train_idx[y[train_idx] == c] for c in range(10)])
train_loader = DataLoader(TensorDataset(x[by_class], y[by_class]), batch_size=32)
val_loader = DataLoader(TensorDataset(x[val_idx], y[val_idx]), batch_size=200)

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(256, 64),
    nn.ReLU(),
    nn.Linear(64, 10),
)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.02)

for epoch in range(args.epochs):
    model.train()
    for images, labels in train_loader:
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
    model.eval()
    total, right = 0.0, 0
    with torch.no_grad():
        for images, labels in val_loader:
            out = model(images)
            total += criterion(out, labels).item() * len(labels)
            right += (out.argmax(1) == labels).sum().item()
    print(f"epoch {epoch + 1}: val loss {total / len(val_idx):.3f}, val accuracy {right / len(val_idx):.3f}")
