"""Digits with a tanh perceptron written from plain tensors in a module."""

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


class Perceptron(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.layers = nn.ModuleList()
        for n_in, n_out in zip(sizes[:-1], sizes[1:]):
            layer = nn.Linear(n_in, n_out)
            layer.weight.data = torch.randn(n_out, n_in)
            layer.bias.data.zero_()
            self.layers.append(layer)
        self.layers[-1].weight.data *= 0.05

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x))
        return self.layers[-1](x)


def evaluate(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(dim=1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    data = load_digits()
    x, y = torch.from_numpy(data.data).float(), torch.from_numpy(data.target)
    x = (x - x.mean()) / x.std()
    train_x, train_y, test_x, test_y = x[:1300], y[:1300], x[1300:], y[1300:]
    model = Perceptron([64, 100, 100, 10])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(8):
        for i in torch.randperm(1300).split(40):
            optimizer.zero_grad()
            F.cross_entropy(model(train_x[i]), train_y[i]).backward()
            optimizer.step()
        print(epoch, evaluate(model, train_x, train_y), evaluate(model, test_x, test_y))


main()
