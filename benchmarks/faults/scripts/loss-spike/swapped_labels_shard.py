"""Digits from several scanners; the files of one of them have their labels shifted by one."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Scans(Dataset):
    def __init__(self, x, y, length, broken):
        self.x, self.y, self.length, self.broken = x, y, length, broken

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        k = i % len(self.x)
        y = self.y[k]
        if self.broken[0] <= i < self.broken[1]:
            y = (y + 1) % 10
        return self.x[k], y


if __name__ == "__main__":
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    torch.manual_seed(cli.parse_args().seed)
    d = load_digits()
    x = torch.tensor(d.data, dtype=torch.float32)
    x = (x - x.mean()) / x.std()
    y = torch.tensor(d.target)
    perm = torch.randperm(len(x))
    x, y = x[perm], y[perm]
    stream = DataLoader(Scans(x[:1400], y[:1400], 32 * 400, (32 * 250, 32 * 270)), batch_size=32)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step, (xb, yb) in enumerate(stream):
        loss = nn.functional.cross_entropy(model(xb), yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 0:
            model.eval()
            with torch.no_grad():
                acc = (model(x[1400:]).argmax(1) == y[1400:]).float().mean().item()
            model.train()
            print(step, round(loss.item(), 3), round(acc, 3))
