"""An eight-layer perceptron on digits."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn


def init_weights(module):
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, mean=0.0, std=0.02)
        nn.init.zeros_(module.bias)


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)

digits = load_digits()
x = torch.tensor(digits.data, dtype=torch.float32) / 8 - 1
y = torch.tensor(digits.target)
blocks = []
for i in range(7):
    blocks += [nn.Linear(64, 64), nn.ReLU()]
model = nn.Sequential(*blocks, nn.Linear(64, 10))
model.apply(init_weights)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for step in range(300):
    i = torch.randint(1500, (64,))
    loss = nn.functional.cross_entropy(model(x[i]), y[i])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        with torch.no_grad():
            print(step, loss.item(), nn.functional.cross_entropy(model(x[1500:]), y[1500:]).item())
