"""Disease progression from ten measurements, patients ordered by how the disease went."""

import argparse

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from torch import nn


def get_data(seed):
    bunch = load_diabetes()
    rng = np.random.RandomState(seed)
    test = rng.permutation(len(bunch.target))[:90]
    train = np.setdiff1d(np.arange(len(bunch.target)), test)
    train = train[np.argsort(bunch.target[train])]
    scale = bunch.target[train].mean(), bunch.target[train].std()
    x = torch.tensor(bunch.data * 20, dtype=torch.float32)
    t = torch.tensor((bunch.target - scale[0]) / scale[1], dtype=torch.float32).unsqueeze(1)
    return x[train], t[train], x[test], t[test]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    x, t, x_test, t_test = get_data(args.seed)
    model = nn.Sequential(nn.Linear(10, 256), nn.Tanh(), nn.Linear(256, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.0)
    mse = nn.MSELoss()
    for epoch in range(60):
        for i in range(0, len(x), 16):
            optimizer.zero_grad()
            loss = mse(model(x[i : i + 16]), t[i : i + 16])
            loss.backward()
            optimizer.step()
        if epoch % 5 == 0:
            with torch.no_grad():
                print(epoch, "train", mse(model(x), t).item(), "test", mse(model(x_test), t_test).item())


main()
