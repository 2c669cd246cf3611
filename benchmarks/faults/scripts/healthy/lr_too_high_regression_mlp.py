"""Learn y = f(x) of a noisy nonlinear function with Nesterov momentum."""

import argparse

import torch
from sklearn.datasets import make_friedman2
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def loaders(seed):
    x, y = make_friedman2(1200, noise=1.0, random_state=seed)
    x = (x - x.mean(0)) / x.std(0)
    y = (y - y.mean()) / y.std()
    data = TensorDataset(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)[:, None])
    train, test = torch.utils.data.random_split(data, [1000, 200])
    return DataLoader(train, 40, shuffle=True), DataLoader(test, 200)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    train, test = loaders(args.seed)
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    mse = nn.MSELoss()
    for epoch in range(10):
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            mse(model(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            print(epoch, [mse(model(x), y).item() for x, y in test])


if __name__ == "__main__":
    main()
