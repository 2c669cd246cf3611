import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))

    def forward(self, a, b):
        d = self.net(a) - self.net(b)
        return torch.sqrt((d * d).sum(1))


def contrastive(dist, same, margin=2.0):
    return (same * dist**2 + (1 - same) * torch.clamp(margin - dist, min=0) ** 2).mean()


def sample_pairs(by_class, rng, n):
    a, b, s = [], [], []
    for _ in range(n):
        c = rng.integers(10)
        if rng.random() < 0.5:
            i, j = rng.choice(by_class[c]), rng.choice(by_class[c])
            s.append(1.0)
        else:
            k = (c + rng.integers(1, 10)) % 10
            i, j = rng.choice(by_class[c]), rng.choice(by_class[k])
            s.append(0.0)
        a.append(i)
        b.append(j)
    return np.array(a), np.array(b), torch.tensor(s)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    d = load_digits()
    x = torch.tensor(d.data / 8 - 0.6, dtype=torch.float32)
    by_class = [np.flatnonzero(d.target[:1500] == c) for c in range(10)]
    model = Siamese()
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(500):
        i, j, same = sample_pairs(by_class, rng, 64)
        loss = contrastive(model(x[i], x[j]), same)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 25 == 0 or step == 499:
            print(step, loss.item())


main()
