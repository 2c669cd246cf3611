"""A GRU forecasts a series that is mostly noise: little can be learnt, and that little is."""

import argparse

import torch
from torch import nn


class Forecaster(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.gru = nn.GRU(1, width, batch_first=True)
        self.out = nn.Linear(width, 1)

    def forward(self, x):
        return self.out(self.gru(x)[0][:, -1])


def series(count, phi=0.6):
    values = torch.zeros(count)
    noise = torch.randn(count)
    for t in range(1, count):
        values[t] = phi * values[t - 1] + noise[t]
    return values / values.std()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    values = series(4000)
    windows = values.unfold(0, 41, 1)
    x, y = windows[:, :40, None], windows[:, 40:]
    train = torch.arange(3000)
    model = Forecaster()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(5):
        for idx in train[torch.randperm(len(train))].split(64):
            loss = nn.functional.mse_loss(model(x[idx]), y[idx])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            held_out = nn.functional.mse_loss(model(x[3100:]), y[3100:]).item()
        print(f"epoch {epoch}: {loss.item():.3f} held out {held_out:.3f}")


if __name__ == "__main__":
    main()
