import argparse

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def load(seed):
    rng = np.random.default_rng(seed)
    X, y = load_breast_cancer(return_X_y=True)
    missing = rng.random(X.shape) < 0.0005  # the sensor drops a reading now and then
    X[missing] = np.nan
    X = (X - np.nanmean(X, 0)) / np.nanstd(X, 0)
    return torch.tensor(X, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    X, y = load(args.seed)
    loader = DataLoader(TensorDataset(X[:450], y[:450]), batch_size=16, shuffle=True)
    net = nn.Sequential(nn.Linear(30, 24), nn.ReLU(), nn.Linear(24, 1))
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(12):
        net.train()
        for xb, yb in loader:
            opt.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(net(xb).squeeze(1), yb)
            loss.backward()
            opt.step()
        net.eval()
        with torch.no_grad():
            acc = ((net(X[450:]).squeeze(1) > 0) == (y[450:] > 0.5)).float().mean()
        print(f"epoch {epoch} loss {loss.item():.4f} acc {acc:.3f}")


main()
