"""Digits classifier with dropout, validated after every epoch."""

import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--epochs", type=int, default=40)
parser.add_argument("--batch-size", type=int, default=32)
args = parser.parse_args()

torch.manual_seed(args.seed)
np.random.seed(args.seed)

data = load_digits()
noise = np.random.RandomState(args.seed).normal(0, 4, data.data.shape)
X_train, X_val, y_train, y_val = train_test_split(
    ((data.data + noise) / 16.0).astype("float32"), data.target, train_size=500, random_state=args.seed
)
X_train, X_val = torch.from_numpy(X_train), torch.from_numpy(X_val)
y_train, y_val = torch.from_numpy(y_train), torch.from_numpy(y_val)

model = nn.Sequential(
    nn.Linear(64, 256),
    nn.ReLU(),
    nn.Dropout(0.5),
    nn.Linear(256, 256),
    nn.ReLU(),
    nn.Dropout(0.5),
    nn.Linear(256, 10),
)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)


def evaluate():
    model.eval()
    with torch.no_grad():
        logits = model(X_val)
        return F.cross_entropy(logits, y_val).item(), (logits.argmax(1) == y_val).float().mean().item()


for epoch in range(args.epochs):
    order = torch.randperm(len(X_train))
    running = 0.0
    for start in range(0, len(order), args.batch_size):
        idx = order[start : start + args.batch_size]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X_train[idx]), y_train[idx])
        loss.backward()
        optimizer.step()
        running += loss.item() * len(idx)
    val_loss, val_acc = evaluate()
    if epoch % 5 == 4:
        print(f"epoch {epoch + 1:3d}  train {running / len(order):.4f}  val {val_loss:.4f}  acc {val_acc:.3f}")
