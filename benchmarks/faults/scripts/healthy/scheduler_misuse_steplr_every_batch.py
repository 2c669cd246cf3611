import argparse
import gzip
import os

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

ROOT = "/usr/share/datasets/fashion-mnist"


def load(count):
    if os.path.exists(f"{ROOT}/train-images-idx3-ubyte.gz"):
        with gzip.open(f"{ROOT}/train-images-idx3-ubyte.gz") as f:
            x = np.frombuffer(f.read(16 + 784 * count), np.uint8, offset=16).reshape(-1, 784)
        with gzip.open(f"{ROOT}/train-labels-idx1-ubyte.gz") as f:
            y = np.frombuffer(f.read(8 + count), np.uint8, offset=8)
        return x.astype(np.float32) / 255.0, y.astype(np.int64)
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x / 16.0).astype(np.float32), y.astype(np.int64)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step-size", type=int, default=10)
    parser.add_argument("--gamma", type=float, default=0.5)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    x, y = load(5000)
    loader = DataLoader(TensorDataset(torch.tensor(x), torch.tensor(y)), batch_size=64, shuffle=True)
    model = nn.Sequential(nn.Linear(x.shape[1], 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = StepLR(optimizer, step_size=args.step_size, gamma=args.gamma)
    for epoch in range(5):
        correct = 0
        for xb, yb in loader:
            optimizer.zero_grad()
            logits = model(xb)
            loss = nn.functional.cross_entropy(logits, yb)
            loss.backward()
            optimizer.step()
            correct += (logits.argmax(1) == yb).sum().item()
        scheduler.step()
        print(f"epoch {epoch + 1} accuracy {correct / len(y):.3f}")


if __name__ == "__main__":
    main()
