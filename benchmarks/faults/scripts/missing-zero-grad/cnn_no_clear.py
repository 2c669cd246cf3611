import argparse
import gzip
import pathlib

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


class Net(nn.Module):
    def __init__(self, side):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, 2, 1)
        self.conv2 = nn.Conv2d(8, 16, 3, 2, 1)
        self.fc = nn.Linear(16 * ((side + 3) // 4) ** 2, 10)

    def forward(self, x):
        return self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).flatten(1))


def train_one_epoch(model, optimizer, x, y):
    model.train()
    for idx in torch.randperm(len(x)).split(64):
        output = model(x[idx])
        loss = F.cross_entropy(output, y[idx])
        loss.backward()
        optimizer.step()
    return loss.item()


def test(model, x, y):
    model.eval()
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    folder = pathlib.Path("/usr/share/datasets/fashion-mnist")
    if folder.exists():
        x = np.frombuffer(gzip.open(folder / "train-images-idx3-ubyte.gz").read(), np.uint8, offset=16).reshape(
            -1, 1, 28, 28
        )[:5000]
        y = np.frombuffer(gzip.open(folder / "train-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)[:5000]
        x = (x / 255.0 - 0.286) / 0.353
    else:
        from sklearn.datasets import load_digits

        d = load_digits()
        x, y = (d.images[:, None] / 16 - 0.3) / 0.38, d.target
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y.astype("int64"))
    n = int(0.85 * len(x))
    model = Net(x.shape[-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for epoch in range(4):
        print(epoch, train_one_epoch(model, optimizer, x[:n], y[:n]), test(model, x[n:], y[n:]))


if __name__ == "__main__":
    main()
