"""A very wide network in NTK parametrisation on noisy digits, one against the rest of the scale."""

import argparse
import math

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn


class NTKLinear(nn.Module):
    """Weights of variance 1; the forward pass divides by the root of the width."""

    def __init__(self, fan_in, fan_out):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in))
        self.factor = 1 / math.sqrt(fan_in)

    def forward(self, x):
        return x @ self.weight.t() * self.factor


class Net(nn.Module):
    def __init__(self, width=1500, gain=40.0):
        super().__init__()
        self.l1, self.l2, self.l3 = NTKLinear(64, width), NTKLinear(width, width), NTKLinear(width, 10)
        self.gain = gain
        with torch.no_grad():
            self.l3.weight.zero_()

    def forward(self, x):
        return self.gain * self.l3(torch.relu(self.l2(torch.relu(self.l1(x)))))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.RandomState(args.seed)
    digits = load_digits()
    noisy = digits.data / 16 + rng.normal(0, 0.6, digits.data.shape)
    x = torch.tensor(noisy, dtype=torch.float32)
    x = (x - x.mean()) / x.std()
    y = torch.nn.functional.one_hot(torch.tensor(digits.target), 10).float() - 0.1
    order = torch.randperm(len(x))
    train, test = order[:100], order[100:600]
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    mse = nn.MSELoss()
    for step in range(300):
        idx = train[torch.randint(len(train), (50,))]
        loss = mse(net(x[idx]), y[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 19:
            with torch.no_grad():
                out = net(x[test])
                held = mse(out, y[test]).item()
                acc = (out.argmax(1) == y[test].argmax(1)).float().mean().item()
            print(f"step {step + 1}: train {loss.item():.4f} test {held:.4f} accuracy {acc:.3f}")


if __name__ == "__main__":
    main()
