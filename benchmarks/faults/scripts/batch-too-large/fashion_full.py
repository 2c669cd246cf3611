"""Fashion-MNIST (or digits), whole training set in every step."""

import argparse
import gzip
import os

import numpy as np
import torch
from torch import nn


def load(n):
    root = "/usr/share/datasets/fashion-mnist"
    if not os.path.isdir(root):
        from sklearn.datasets import load_digits

        d = load_digits()
        return torch.tensor(d.data / 16, dtype=torch.float32), torch.tensor(d.target)
    with gzip.open(root + "/train-images-idx3-ubyte.gz") as f:
        x = np.frombuffer(f.read(16 + 784 * n), np.uint8, offset=16).reshape(n, 28, 28)[:, ::2, ::2]
    with gzip.open(root + "/train-labels-idx1-ubyte.gz") as f:
        y = np.frombuffer(f.read(8 + n), np.uint8, offset=8)
    return torch.tensor(x.reshape(n, -1) / 255.0, dtype=torch.float32), torch.tensor(y.astype(np.int64))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=8000)
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    x, y = load(8000)
    x = (x - x.mean()) / x.std()
    model = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(args.epochs):
        for idx in torch.randperm(len(x)).split(args.batch_size):
            loss = nn.functional.cross_entropy(model(x[idx]), y[idx])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch % 5 == 0:
            print(epoch, loss.item())


if __name__ == "__main__":
    main()
