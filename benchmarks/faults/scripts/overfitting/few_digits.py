"""Learn digits from very few, noisy examples."""

import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(1, 32, 3, padding=1)
        self.c2 = nn.Conv2d(32, 32, 3, padding=1)
        self.f1 = nn.Linear(32 * 16, 128)
        self.f2 = nn.Linear(128, 10)

    def forward(self, x):
        x = F.relu(self.c1(x))
        x = F.max_pool2d(F.relu(self.c2(x)), 2)
        return self.f2(F.relu(self.f1(x.flatten(1))))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.RandomState(args.seed)
    d = load_digits()
    images = d.images / 16 + rng.normal(0, 0.5, d.images.shape)
    x = torch.tensor(images, dtype=torch.float32)[:, None]
    y = torch.tensor(d.target)
    order = torch.randperm(len(x))
    train, test = order[:80], order[80:680]
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(70):
        net.train()
        for b in train[torch.randperm(len(train))].split(16):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x[b]), y[b])
            loss.backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            logits = net(x[test])
            test_loss = F.cross_entropy(logits, y[test])
            acc = (logits.argmax(1) == y[test]).float().mean()
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: train {loss.item():.4f}  test {test_loss.item():.3f}  acc {acc.item():.3f}")


if __name__ == "__main__":
    main()
