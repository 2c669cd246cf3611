import argparse

import torch
import torch.nn as nn
import torch.optim as optim
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU()
        )
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


def groups(net, lr):
    # Rates per part of the network, from the config file.
    scale = {"stem": 0.0, "body": 0.0, "head": 1.0}
    return [{"params": getattr(net, name).parameters(), "lr": lr * s} for name, s in scale.items()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=0.02)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    d = load_digits()
    images = torch.tensor(d.images[:, None] / 16, dtype=torch.float32)
    images = (images - images.mean()) / images.std()
    train, test = torch.utils.data.random_split(TensorDataset(images, torch.tensor(d.target)), [1400, 397])
    net = Net()
    optimizer = optim.SGD(groups(net, args.lr), lr=args.lr, momentum=0.9)
    for epoch in range(8):
        for xb, yb in DataLoader(train, 50, shuffle=True):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(xb), yb)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            hits = sum((net(xb).argmax(1) == yb).sum().item() for xb, yb in DataLoader(test, 200))
        print(f"epoch {epoch} loss {loss.item():.4f} acc {hits / len(test):.4f}")
