"""Voltages of a few microvolts, in volts."""

import argparse

import torch
from torch import nn


def recordings(n):
    t = torch.arange(64) / 64
    kind = torch.randint(0, 3, (n,))
    freq = torch.tensor([4.0, 9.0, 15.0])[kind].unsqueeze(1)
    phase = 6.28 * torch.rand(n, 1)
    wave = torch.sin(6.2832 * freq * t + phase) + 0.5 * torch.randn(n, 64)
    return 8e-6 * wave, kind


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(1, 16, 9, padding=4), nn.ReLU(), nn.Conv1d(16, 16, 9, padding=4), nn.ReLU())
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.body(x.unsqueeze(1)).amax(2))


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
net = ConvNet()
optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
xv, yv = recordings(600)
for step in range(300):
    x, y = recordings(64)
    loss = nn.functional.cross_entropy(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        with torch.no_grad():
            print(step, loss.item(), (net(xv).argmax(1) == yv).float().mean().item())
