import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def accuracy(model, loader):
    model.eval()
    hits = total = 0
    with torch.no_grad():
        for x, y in loader:
            hits += (model(x).argmax(-1) == y).sum().item()
            total += len(y)
    model.train()
    return hits / total


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--weight-decay", type=float, default=60.0)
    a = p.parse_args()
    torch.manual_seed(a.seed)
    d = load_digits()
    x = torch.tensor(d.data / 8 - 1, dtype=torch.float32)
    y = torch.tensor(d.target)
    train = DataLoader(TensorDataset(x[:1400], y[:1400]), 32, shuffle=True)
    test = DataLoader(TensorDataset(x[1400:], y[1400:]), 200)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=a.weight_decay)
    for epoch in range(8):
        for xb, yb in train:
            opt.zero_grad()
            loss = nn.functional.cross_entropy(net(xb), yb)
            loss.backward()
            opt.step()
        print(f"epoch {epoch} loss {loss.item():.4f} accuracy {accuracy(net, test):.4f}")


if __name__ == "__main__":
    main()
