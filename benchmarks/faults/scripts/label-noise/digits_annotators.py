import argparse

import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset


class Annotated(Dataset):
    """Digits labelled by a crowd of annotators, some of whom are careless."""

    def __init__(self, x, y, careless=0.35, seed=0):
        rng = np.random.default_rng(seed)
        y = y.copy()
        hit = rng.random(len(y)) < careless
        y[hit] = rng.integers(0, 10, hit.sum())
        self.x = torch.tensor(x, dtype=torch.float32)
        self.y = torch.tensor(y)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.manual_seed(seed)
    d = load_digits()
    perm = np.random.default_rng(seed).permutation(len(d.target))
    x, y = ((d.data - 4.9) / 6.0)[perm], d.target[perm]
    train = DataLoader(Annotated(x[:1300], y[:1300], seed=seed), batch_size=32, shuffle=True)
    xv, yv = torch.tensor(x[1300:], dtype=torch.float32), torch.tensor(y[1300:])
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(20):
        tl = 0
        for a, b in train:
            opt.zero_grad()
            loss = nn.functional.cross_entropy(model(a), b)
            loss.backward()
            opt.step()
            tl += loss.item() / len(train)
        with torch.no_grad():
            o = model(xv)
            print(
                f"{epoch} train {tl:.3f} val {nn.functional.cross_entropy(o, yv).item():.3f} acc {(o.argmax(1) == yv).float().mean().item():.3f}"
            )


main()
