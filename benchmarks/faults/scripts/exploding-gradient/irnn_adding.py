import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F

# How high does a random walk get? A hand-written recurrent cell, no clipping.


class Cell(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inp = nn.Linear(1, width)
        self.rec = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.rec.weight)

    def forward(self, x, h):
        return F.relu(self.inp(x) + self.rec(h))


class Net(nn.Module):
    def __init__(self, width=48):
        super().__init__()
        self.width, self.cell, self.read = width, Cell(width), nn.Linear(width, 1)

    def forward(self, x):
        h = x.new_zeros(len(x), self.width)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t : t + 1], h)
        return self.read(h).squeeze(1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=3e-3)
    for step in range(200):
        x = torch.randn(32, 60)
        target = x.cumsum(1).amax(1) / 8
        loss = F.mse_loss(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(step, loss.item())


main()
