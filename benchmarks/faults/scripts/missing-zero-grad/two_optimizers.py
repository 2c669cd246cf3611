import argparse
import gzip
import os

import numpy as np
import torch
from torch import nn


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(16 * 49, 16)

    def forward(self, x):
        x = torch.relu(self.conv1(x))
        x = torch.relu(self.conv2(x))
        return self.fc(x.flatten(1))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 128)
        self.out = nn.Linear(128, 784)

    def forward(self, z):
        return self.out(torch.relu(self.fc(z))).view(-1, 1, 28, 28)


def images(n):
    path = "/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz"
    if os.path.exists(path):
        a = np.frombuffer(gzip.open(path).read(16 + 784 * n), np.uint8, offset=16).reshape(-1, 1, 28, 28)
        return torch.tensor(a / 255.0, dtype=torch.float32)
    from sklearn.datasets import load_digits

    a = np.pad(np.kron(load_digits().images, np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2))) / 16
    return torch.tensor(a, dtype=torch.float32)[:, None]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    torch.manual_seed(p.parse_args().seed)
    x = images(3500)
    x = (x - x.mean()) / x.std()
    xt, xv = x[:3000], x[3000:]
    enc, dec = Encoder(), Decoder()
    opt_enc = torch.optim.SGD(enc.parameters(), lr=0.02, momentum=0.9)
    opt_dec = torch.optim.SGD(dec.parameters(), lr=0.02, momentum=0.9)
    for epoch in range(8):
        tot = 0
        for b in torch.randperm(len(xt)).split(50):
            opt_dec.zero_grad()
            loss = (dec(enc(xt[b])) - xt[b]).square().mean()
            loss.backward()
            opt_enc.step()
            opt_dec.step()
            tot += loss.item() / 60
        with torch.no_grad():
            v = (dec(enc(xv)) - xv).square().mean().item()
        genc = sum(q.grad.square().sum() for q in enc.parameters()).sqrt().item()
        gdec = sum(q.grad.square().sum() for q in dec.parameters()).sqrt().item()
        print(f"epoch {epoch} train {tot:.4f} val {v:.4f} grad enc {genc:.3f} dec {gdec:.3f}")


main()
