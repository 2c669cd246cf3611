import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class MultiTask(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU())
        self.digit = nn.Linear(64, 10)
        self.ink = nn.Linear(64, 1)
        self.parity = nn.Linear(64, 1)

    def forward(self, x):
        h = self.shared(x)
        return self.digit(h), self.ink(h).squeeze(1), self.parity(h).squeeze(1)


def losses(outputs, digit, ink):
    d, i, p = outputs
    return F.cross_entropy(d, digit), F.mse_loss(i, ink), F.binary_cross_entropy_with_logits(p, (digit % 2).float())


def run(seed):
    torch.manual_seed(seed)
    d = load_digits()
    x = torch.tensor(d.data, dtype=torch.float32)
    ink = x.mean(1)
    ink = (ink - ink.mean()) / ink.std()
    x = (x - x.mean()) / x.std()
    y = torch.tensor(d.target)
    perm = torch.randperm(len(x))
    tr, va = perm[:1400], perm[1400:]
    loader = DataLoader(TensorDataset(x[tr], y[tr], ink[tr]), batch_size=32, shuffle=True)
    model = MultiTask()
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(8):
        model.train()
        for xb, yb, ib in loader:
            parts = losses(model(xb), yb, ib)
            loss = parts[0] + 0.5 * parts[1] + 0.5 * parts[2]
            opt.zero_grad()
            loss.backward()
            opt.step()
        model.eval()
        with torch.no_grad():
            print(epoch, [round(part.item(), 4) for part in losses(model(x[va]), y[va], ink[va])])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    run(parser.parse_args().seed)
