import argparse
import gzip
import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

DATA = "/usr/share/datasets/fashion-mnist"


def get(n=4000):
    if os.path.isdir(DATA):
        x = np.frombuffer(gzip.open(f"{DATA}/train-images-idx3-ubyte.gz").read(16 + n * 784)[16:], np.uint8)
        y = np.frombuffer(gzip.open(f"{DATA}/train-labels-idx1-ubyte.gz").read(8 + n)[8:], np.uint8)
        x = x.reshape(n, 28, 28)[:, ::2, ::2].reshape(n, 196) / 255.0
    else:
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x = x / 16.0
    x = (x - x.mean()) / x.std()
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y.astype(np.int64))


class MLP(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(a, b)) for a, b in zip(sizes, sizes[1:]))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(b)) for b in sizes[1:])

    def forward(self, x):
        for w, b in list(zip(self.weights, self.biases))[:-1]:
            x = F.relu(x @ w + b)
        return x @ self.weights[-1] + self.biases[-1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    x, y = get()
    model = MLP([x.shape[1], 128, 128, 10])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(4):
        for idx in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[idx]), y[idx])
            loss.backward()
            optimizer.step()
        print(epoch, loss.item())
