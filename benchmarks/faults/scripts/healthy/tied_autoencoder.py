import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class Tied(nn.Module):
    """The decoder uses the encoder's matrices, transposed."""

    def __init__(self):
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(48, 64) / 8)
        self.w2 = nn.Parameter(torch.randn(12, 48) / 48**0.5)
        self.b1 = nn.Parameter(torch.zeros(48))
        self.b2 = nn.Parameter(torch.zeros(12))
        self.c1 = nn.Parameter(torch.zeros(48))
        self.c2 = nn.Parameter(torch.zeros(64))

    def forward(self, x):
        h = F.elu(F.linear(x, self.w1, self.b1))
        z = F.linear(h, self.w2, self.b2)
        h = F.elu(F.linear(z, self.w2.t(), self.c1))
        return F.linear(h, self.w1.t(), self.c2)


args = argparse.ArgumentParser()
args.add_argument("--seed", type=int, default=0)
torch.manual_seed(args.parse_args().seed)
x = torch.tensor(load_digits().data, dtype=torch.float32)
x = (x - x.mean()) / x.std()
x = x[torch.randperm(len(x))]
net = Tied()
opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True)
for epoch in range(15):
    for b in torch.randperm(1500).split(60):
        opt.zero_grad()
        loss = F.mse_loss(net(x[b]), x[b])
        loss.backward()
        opt.step()
    with torch.no_grad():
        print(epoch, loss.item(), F.mse_loss(net(x[1500:]), x[1500:]).item())
