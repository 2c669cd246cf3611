import argparse
import gzip
import os

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

DATA = "/usr/share/datasets/fashion-mnist"


class Trainer:
    def __init__(self, model, train, val, lr):
        self.model, self.train_loader, self.val_loader = model, train, val
        self.optimizer = optim.Adam(model.parameters(), lr=lr)
        self.criterion = nn.CrossEntropyLoss()

    def train_epoch(self):
        self.model.train()
        losses = []
        for x, y in self.train_loader:
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return sum(losses) / len(losses)

    @torch.no_grad()
    def validate(self):
        self.model.eval()
        losses, correct, count = 0.0, 0, 0
        for x, y in self.val_loader:
            out = self.model(x)
            losses += self.criterion(out, y).item() * len(x)
            correct += (out.argmax(1) == y).sum().item()
            count += len(x)
        return losses / count, correct / count

    def fit(self, epochs):
        for epoch in range(epochs):
            train = self.train_epoch()
            val, acc = self.validate()
            print(f"epoch {epoch + 1}/{epochs} train {train:.3f} val {val:.3f} acc {acc:.3f}")


def data():
    if os.path.exists(DATA):

        def get(name, off):
            return np.frombuffer(gzip.open(f"{DATA}/{name}").read(), np.uint8, offset=off)

        x = get("train-images-idx3-ubyte.gz", 16).reshape(-1, 784)[:9000]
        y = get("train-labels-idx1-ubyte.gz", 8)[:9000]
        x = x / 255.0
    else:
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x = x / 16.0
    x = torch.tensor((x - x.mean()) / x.std(), dtype=torch.float32)
    return x, torch.tensor(y.astype("int64"))


if __name__ == "__main__":
    cli = argparse.ArgumentParser()
    cli.add_argument("--seed", type=int, default=0)
    torch.manual_seed(cli.parse_args().seed)
    x, y = data()
    cut = int(0.85 * len(x))
    net = nn.Sequential(
        nn.Linear(x.shape[1], 256),
        nn.ReLU(),
        nn.Dropout(0.4),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Dropout(0.4),
        nn.Linear(128, 10),
    )
    Trainer(
        net,
        DataLoader(TensorDataset(x[:cut], y[:cut]), 100, shuffle=True),
        DataLoader(TensorDataset(x[cut:], y[cut:]), 500),
        1e-3,
    ).fit(5)
