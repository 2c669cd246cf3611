import argparse
import math

import torch
import torch.nn as nn
from sklearn.datasets import make_moons


class Coupling(nn.Module):
    def __init__(self, flip):
        super().__init__()
        self.flip = flip
        self.net = nn.Sequential(nn.Linear(1, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 2))

    def forward(self, x):
        a, b = x.chunk(2, 1)
        if self.flip:
            a, b = b, a
        s, t = self.net(a).chunk(2, 1)
        s = torch.tanh(s)
        b = b * s.exp() + t
        return torch.cat([b, a] if self.flip else [a, b], 1), s.squeeze(1)


class Flow(nn.Module):
    def __init__(self, depth=6):
        super().__init__()
        self.layers = nn.ModuleList(Coupling(i % 2 == 1) for i in range(depth))

    def forward(self, x):
        logdet = 0
        for layer in self.layers:
            x, ld = layer(x)
            logdet = logdet + ld
        return x, logdet


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    seed = p.parse_args().seed
    torch.manual_seed(seed)
    points = torch.tensor(make_moons(4000, noise=0.08, random_state=seed)[0], dtype=torch.float32)
    points = (points - points.mean(0)) / points.std(0)
    train, held = points[:3200], points[3200:]
    flow = Flow()
    opt = torch.optim.Adam(flow.parameters(), lr=2e-3)

    def nll(x):
        z, logdet = flow(x)
        return (0.5 * z.square().sum(1) + math.log(2 * math.pi) - logdet).mean()

    for epoch in range(16):
        for idx in torch.randperm(len(train)).split(128):
            loss = nll(train[idx])
            opt.zero_grad()
            loss.backward()
            opt.step()
        with torch.no_grad():
            print(epoch, loss.item(), nll(held).item())


main()
