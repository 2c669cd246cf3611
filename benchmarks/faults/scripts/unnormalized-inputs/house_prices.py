import argparse

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Houses(Dataset):
    def __init__(self, n, seed):
        r = np.random.default_rng(seed)
        area = r.uniform(400, 3500, n)
        year = r.integers(1920, 2022, n)
        income = r.lognormal(11, 0.4, n)
        rooms = r.integers(1, 8, n)
        dist = r.exponential(8, n)
        self.x = np.stack([area, year, income, rooms, dist], 1).astype(np.float32)
        price = (
            0.9 * (area - 1950) / 900
            + 0.5 * np.log(income / 6e4) / 0.4
            + 0.4 * (rooms - 4) / 2
            - 0.6 * np.tanh((dist - 8) / 8)
            + 0.3 * (year - 1970) / 30
        )
        self.y = ((price + 0.2 * r.normal(size=n)) / 1.3).astype(np.float32)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


class PriceModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x):
        return self.layers(x)[:, 0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    train, val = Houses(2500, args.seed), Houses(600, args.seed + 1)
    model = PriceModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = nn.MSELoss()
    vx, vy = torch.tensor(val.x), torch.tensor(val.y)
    for epoch in range(20):
        losses = []
        for x, y in DataLoader(train, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            v = criterion(model(vx), vy).item()
        print(f"epoch {epoch} train {np.mean(losses):.4g} val {v:.4g} (variance of target {vy.var().item():.2f})")


main()
