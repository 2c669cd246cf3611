"""Fashion images; the first steps run at a much larger rate ("to get away from the initialisation")."""

import argparse
import gzip
import os

import numpy as np
import torch
from torch import nn

ROOT = "/usr/share/datasets/fashion-mnist/"


def load():
    if os.path.isdir(ROOT):
        x = np.frombuffer(gzip.open(ROOT + "train-images-idx3-ubyte.gz").read(), np.uint8, offset=16).reshape(-1, 784)[
            :6000
        ]
        y = np.frombuffer(gzip.open(ROOT + "train-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)[:6000]
        x = x / 255.0
    else:
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x = x / 16.0
    return torch.tensor((x - x.mean()) / x.std(), dtype=torch.float32), torch.tensor(y.astype("int64"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    x, y = load()
    n = int(0.85 * len(x))
    model = nn.Sequential(
        nn.Linear(x.shape[1], 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    opt = torch.optim.Adam(model.parameters(), lr=0.3)
    for step in range(400):
        if step == 8:
            for group in opt.param_groups:
                group["lr"] = 1e-3
        idx = torch.randint(0, n, (64,))
        loss = nn.functional.cross_entropy(model(x[idx]), y[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 50 == 49:
            with torch.no_grad():
                acc = (model(x[n:]).argmax(1) == y[n:]).float().mean().item()
            print(f"{step + 1}: loss {loss.item():.3f} acc {acc:.3f}")


main()
