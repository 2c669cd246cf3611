import argparse

import torch
import torch.nn as nn
from sklearn.datasets import load_wine
from torch.utils.data import DataLoader, TensorDataset


def make_model(width, depth, gain):
    layers = []
    size = 13
    for _ in range(depth):
        linear = nn.Linear(size, width)
        nn.init.xavier_normal_(linear.weight, gain=gain)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.Tanh()]
        size = width
    layers.append(nn.Linear(size, 3))
    return nn.Sequential(*layers)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gain", type=float, default=12.0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    wine = load_wine()
    x = torch.tensor(wine.data, dtype=torch.float32)
    x = (x - x.mean(0)) / x.std(0)
    loader = DataLoader(TensorDataset(x, torch.tensor(wine.target)), batch_size=16, shuffle=True)
    model = make_model(64, 4, args.gain)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for epoch in range(25):
        for features, target in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(features), target)
            loss.backward()
            optimizer.step()
        print("epoch", epoch, "loss", loss.item())


if __name__ == "__main__":
    main()
