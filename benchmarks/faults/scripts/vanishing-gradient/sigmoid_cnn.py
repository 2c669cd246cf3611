import argparse
import gzip
import os

import numpy as np
import torch
import torch.nn as nn

R = "/usr/share/datasets/fashion-mnist/"


class SigmoidNet(nn.Module):
    """As in the old papers: sigmoid after every layer."""

    def __init__(self):
        super().__init__()
        channels = [1, 8, 8, 16, 16, 16, 16]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in zip(channels, channels[1:]))
        self.fc1, self.fc2 = nn.Linear(256, 64), nn.Linear(64, 10)

    def forward(self, x):
        for k, conv in enumerate(self.convs):
            x = torch.sigmoid(conv(x))
            if k in (0, 2):
                x = nn.functional.avg_pool2d(x, 2)
        x = nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)
        return self.fc2(torch.sigmoid(self.fc1(x)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    if os.path.exists(R):
        x = np.frombuffer(gzip.open(R + "train-images-idx3-ubyte.gz").read(), np.uint8, offset=16).reshape(
            -1, 1, 28, 28
        )[:3500]
        y = np.frombuffer(gzip.open(R + "train-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)[:3500]
        x = (x / 255.0 - 0.286) / 0.353
    else:
        from sklearn.datasets import load_digits

        d = load_digits()
        x, y = np.kron((d.images[:, None] / 16 - 0.3) / 0.38, np.ones((1, 1, 3, 3))), d.target
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y.astype("int64"))
    n = int(0.9 * len(x))
    net = SigmoidNet()
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(4):
        for idx in torch.randperm(n).split(64):
            opt.zero_grad()
            loss = nn.functional.cross_entropy(net(x[idx]), y[idx])
            loss.backward()
            opt.step()
        with torch.no_grad():
            print(epoch, loss.item(), (net(x[n:]).argmax(1) == y[n:]).float().mean().item())


main()
