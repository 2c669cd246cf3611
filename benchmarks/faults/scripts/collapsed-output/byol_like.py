"""Self-supervised features of garments: both views through the same network, a predictor on one side."""

import argparse
import gzip

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def images(n=3000):
    try:
        with gzip.open("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz") as f:
            x = np.frombuffer(f.read(16 + 784 * n), np.uint8, offset=16).reshape(n, 28, 28)[:, ::2, ::2] / 255.0
    except OSError:
        from sklearn.datasets import load_digits

        x = np.kron(load_digits().images / 16, np.ones((2, 2)))[:, 1:15, 1:15]
    return torch.tensor(x, dtype=torch.float32)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(196, 128), nn.ReLU(), nn.Linear(128, 32))
        self.predictor = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, a, b):
        za, zb = self.backbone(a), self.backbone(b)
        return self.predictor(za), zb


def view(x):
    shift = torch.randint(-1, 2, (2,)).tolist()
    return torch.roll(x, shift, (1, 2)) + 0.1 * torch.randn_like(x)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    x = images()
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for epoch in range(8):
        for idx in torch.randperm(len(x)).split(100):
            p, z = net(view(x[idx]), view(x[idx]))
            loss = F.mse_loss(p, z)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            z = net.backbone(x[:500])
        print(f"epoch {epoch} loss {loss.item():.7f} spread of features {z.std(0).mean().item():.5f}")
