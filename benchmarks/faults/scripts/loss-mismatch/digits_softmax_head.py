"""A GRU reads the rows of a digit and names it."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import StepLR


class RowReader(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.gru = nn.GRU(8, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, 10)

    def forward(self, x):
        _, h = self.gru(x)
        return nn.functional.softmax(self.fc(h[-1]), dim=-1)


def batches(x, y, size):
    perm = torch.randperm(len(x))
    for i in range(0, len(x) - size + 1, size):
        yield x[perm[i : i + size]], y[perm[i : i + size]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.manual_seed(seed)
    bunch = load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32) / 16
    y = torch.tensor(bunch.target)
    x_train, y_train, x_test, y_test = x[:1400], y[:1400], x[1400:], y[1400:]
    model = RowReader(48)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    scheduler = StepLR(optimizer, 6, gamma=0.5)
    for epoch in range(12):
        for xb, yb in batches(x_train, y_train, 64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(xb), yb)
            loss.backward()
            optimizer.step()
        scheduler.step()
        model.eval()
        with torch.inference_mode():
            probs = model(x_test)
            val_loss = nn.functional.cross_entropy(probs, y_test)
            acc = (probs.argmax(-1) == y_test).float().mean()
        model.train()
        print(f"epoch {epoch:2d} | train {loss:.3f} | val {val_loss:.3f} | acc {acc:.3f}")
