import argparse
import gzip
import os

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

LEARNING_RATE = 1e-4
FOLDER = "/usr/share/datasets/fashion-mnist/"


def read(n):
    if not os.path.isdir(FOLDER):
        from sklearn.datasets import load_digits

        d = load_digits()
        return torch.tensor(d.images / 16.0).float()[:, None], torch.tensor(d.target)
    with gzip.open(FOLDER + "t10k-images-idx3-ubyte.gz") as f:
        x = np.frombuffer(f.read(), np.uint8, offset=16)[: n * 784].reshape(n, 1, 28, 28)
    with gzip.open(FOLDER + "t10k-labels-idx1-ubyte.gz") as f:
        y = np.frombuffer(f.read(), np.uint8, offset=8)[:n]
    return F.avg_pool2d(torch.tensor(x / 255.0).float(), 2), torch.tensor(y.astype("int64"))


class LeNet(nn.Module):
    def __init__(self, side):
        super().__init__()
        self.c1 = nn.Conv2d(1, 8, 3, padding=1)
        self.c2 = nn.Conv2d(8, 16, 3, padding=1)
        self.f1 = nn.Linear(16 * (side // 2) ** 2, 64)
        self.f2 = nn.Linear(64, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.c1(x)), 2)
        x = F.relu(self.c2(x)).flatten(1)
        return self.f2(F.relu(self.f1(x)))


def main(seed=0):
    torch.manual_seed(seed)
    x, y = read(3000)
    x = (x - x.mean()) / x.std()
    net = LeNet(x.shape[-1])
    optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE)
    for step in range(300):
        idx = torch.randint(len(x), (32,))
        loss = F.cross_entropy(net(x[idx]), y[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 30 == 0:
            print(f"step {step:4d}  loss {loss.item():.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args().seed)
