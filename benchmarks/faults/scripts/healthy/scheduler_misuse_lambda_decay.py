"""Predict disease progression with a perceptron; learning rate falls by a power law."""

import argparse

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset


def get_data():
    x, y = load_diabetes(return_X_y=True, scaled=True)
    x = torch.tensor(x, dtype=torch.float32) * 21.0
    y = torch.tensor(y, dtype=torch.float32).unsqueeze(1)
    return x, (y - y.mean()) / y.std()


def run(seed):
    torch.manual_seed(seed)
    x, y = get_data()
    loader = DataLoader(TensorDataset(x[:380], y[:380]), batch_size=20, shuffle=True)
    model = nn.Sequential(nn.Linear(10, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    scheduler = LambdaLR(optimizer, lambda n: (1.0 + n / 100) ** -0.5)
    for epoch in range(30):
        total = 0.0
        for xb, yb in loader:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(xb), yb)
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += loss.item()
        if epoch % 5 == 0:
            with torch.no_grad():
                held_out = nn.functional.mse_loss(model(x[380:]), y[380:]).item()
            print(epoch, round(total / len(loader), 4), round(held_out, 4))


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    run(p.parse_args().seed)
