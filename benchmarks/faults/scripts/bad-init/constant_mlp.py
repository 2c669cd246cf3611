import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def init_weights(module):
    if isinstance(module, nn.Linear):
        nn.init.constant_(module.weight, 0.02)
        nn.init.constant_(module.bias, 0.0)


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.apply(init_weights)

    def forward(self, x):
        return self.net(x)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    torch.manual_seed(ap.parse_args().seed)
    d = load_digits()
    x = torch.tensor(d.data / 16 * 2 - 0.6, dtype=torch.float32)
    y = torch.tensor(d.target)
    p = torch.randperm(len(x))
    dl = DataLoader(TensorDataset(x[p[:1400]], y[p[:1400]]), batch_size=32, shuffle=True)
    xv, yv = x[p[1400:]], y[p[1400:]]
    model = MLP()
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    lf = nn.CrossEntropyLoss()
    for epoch in range(20):
        for a, b in dl:
            opt.zero_grad()
            loss = lf(model(a), b)
            loss.backward()
            opt.step()
        with torch.no_grad():
            o = model(xv)
        print(
            f"{epoch} loss {loss.item():.3f} val {lf(o, yv).item():.3f} acc {(o.argmax(1) == yv).float().mean().item():.3f}"
        )
    print("spread between first-layer rows:", model.net[0].weight.std(0).max().item())


main()
