import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.lin = nn.Linear(d, d)

    def forward(self, x):
        return torch.relu(self.lin(x))


class DeepNet(nn.Module):
    def __init__(self, d_in, d=40, depth=18):
        super().__init__()
        self.inp = nn.Linear(d_in, d)
        self.blocks = nn.ModuleList(Block(d) for _ in range(depth))
        self.out = nn.Linear(d, 1)

    def forward(self, x):
        x = torch.relu(self.inp(x))
        for b in self.blocks:
            x = b(x)
        return self.out(x)


def target(x):
    return torch.sin(x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:3] + 0.3 * x[:, 3:4]


def run():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    torch.manual_seed(ap.parse_args().seed)
    x = torch.randn(3000, 6)
    y = target(x)
    y = (y - y.mean()) / y.std()
    xt, yt, xv, yv = x[:2500], y[:2500], x[2500:], y[2500:]
    net = DeepNet(6)
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for step in range(800):
        i = torch.randint(0, len(xt), (64,))
        loss = F.mse_loss(net(xt[i]), yt[i])
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 100 == 0:
            with torch.no_grad():
                print(step, f"{loss.item():.4f}", f"val {F.mse_loss(net(xv), yv).item():.4f}")
    print("grad norm in", net.inp.weight.grad.norm().item(), "out", net.out.weight.grad.norm().item())
    with torch.no_grad():
        print("final val", F.mse_loss(net(xv), yv).item())


run()
