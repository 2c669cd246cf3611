import argparse
import gzip
import os

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

# Hand-made schedule; one entry has lost its decimal point.
SCHEDULE = {0: 0.05, 100: 0.04, 200: 0.03, 300: 2.0, 306: 0.02, 400: 0.01}


def images():
    root = "/usr/share/datasets/fashion-mnist/"
    if os.path.isdir(root):
        x = np.frombuffer(gzip.open(root + "train-images-idx3-ubyte.gz").read(), np.uint8, offset=16).reshape(-1, 784)[
            :8000
        ]
        y = np.frombuffer(gzip.open(root + "train-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)[:8000]
        return (x / 255.0 - 0.286) / 0.353, y.astype("int64")
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x / 16 - 0.3) / 0.38, y


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    x, y = images()
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    n = int(0.9 * len(x))
    net = nn.Sequential(nn.Linear(x.shape[1], 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10))
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for step in range(500):
        if step in SCHEDULE:
            opt.param_groups[0]["lr"] = SCHEDULE[step]
        idx = torch.randint(0, n, (64,))
        loss = F.cross_entropy(net(x[idx]), y[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 50 == 49:
            with torch.no_grad():
                acc = (net(x[n:]).argmax(1) == y[n:]).float().mean().item()
            print(f"step {step + 1} loss {loss.item():.3f} val acc {acc:.3f}")


main()
