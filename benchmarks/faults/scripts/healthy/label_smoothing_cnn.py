import argparse
import gzip
import os

import numpy as np
import torch
import torch.nn as nn

D = "/usr/share/datasets/fashion-mnist/"


def read(n):
    if not os.path.exists(D):
        from sklearn.datasets import load_digits

        g = load_digits()
        return np.pad(np.kron(g.images, np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2))) / 16, g.target
    x = np.frombuffer(gzip.open(D + "train-images-idx3-ubyte.gz").read(16 + 784 * n), np.uint8, offset=16).reshape(
        n, 28, 28
    )
    y = np.frombuffer(gzip.open(D + "train-labels-idx1-ubyte.gz").read(8 + n), np.uint8, offset=8)
    return x / 255, y.astype(np.int64)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 5, stride=2, padding=2), nn.BatchNorm2d(12), nn.ReLU())
        self.mid = nn.Sequential(nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24), nn.ReLU())
        self.fc = nn.Linear(24 * 49, 10)

    def forward(self, x):
        return self.fc(self.mid(self.stem(x)).flatten(1))


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    torch.manual_seed(p.parse_args().seed)
    X, Y = read(6000)
    X = torch.tensor((X - X.mean()) / X.std(), dtype=torch.float32)[:, None]
    Y = torch.tensor(Y)
    k = len(X) * 4 // 5
    model = Net()
    train_loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=0.05, epochs=6, steps_per_epoch=(k + 63) // 64)
    for epoch in range(6):
        model.train()
        for b in torch.randperm(k).split(64):
            loss = train_loss(model(X[b]), Y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
        model.eval()
        with torch.no_grad():
            o = model(X[k:])
        print(
            f"epoch {epoch} train {loss.item():.3f} val {train_loss(o, Y[k:]).item():.3f} acc {(o.argmax(1) == Y[k:]).float().mean().item():.3f}"
        )
