import argparse

import numpy as np
import torch
import torch.nn.functional as F


def simulate(n, rng):
    temp = rng.normal(size=n)
    load = rng.normal(size=n)
    wind = rng.gamma(2.0, 1.0, size=n) - 2
    hour = rng.uniform(0, 24, n)
    y = 0.8 * temp**2 + 0.7 * load + 0.4 * wind * np.sin(hour / 24 * 2 * np.pi) + 0.1 * rng.normal(size=n)
    X = np.stack([temp, load, wind / 1.4, np.sin(hour / 24 * 2 * np.pi), np.cos(hour / 24 * 2 * np.pi)], 1)
    return X.astype(np.float32), y.astype(np.float32)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(5, 48)
        self.b = torch.nn.Linear(48, 48)
        self.c = torch.nn.Linear(48, 1)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x))))).squeeze(-1)


def main(seed):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    X, y = simulate(2560, rng)
    Xv, yv = simulate(600, rng)
    mu, sd = y.mean(), y.std()
    rank = np.argsort(y)
    X, y = torch.from_numpy(X[rank]), torch.from_numpy((y[rank] - mu) / sd)
    Xv, yv = torch.from_numpy(Xv), torch.from_numpy((yv - mu) / sd)
    model = Model()
    opt = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.85)
    for epoch in range(20):
        tot = 0
        for start in range(0, len(X), 64):
            xb, yb = X[start : start + 64], y[start : start + 64]
            loss = F.mse_loss(model(xb), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            tot += loss.item() * len(xb)
        with torch.no_grad():
            print(f"{epoch:2d} train {tot / len(X):.4f} val {F.mse_loss(model(Xv), yv).item():.4f}")


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    main(p.parse_args().seed)
