import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self, d, h=64):
        super().__init__()
        self.a = nn.Linear(d, h)
        self.b = nn.Linear(h, h)
        self.c = nn.Linear(h, 1)

    def forward(self, x):
        x = torch.nn.functional.silu(self.a(x))
        x = torch.nn.functional.silu(self.b(x))
        return self.c(x)


def make_data(n, g):
    x = torch.randn(n, 8, generator=g)
    y = torch.sin(x[:, :1] * 2) + x[:, 1:2] * x[:, 2:3] + 0.1 * torch.randn(n, 1, generator=g)
    return x, y


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed + 1)
    train = DataLoader(TensorDataset(*make_data(2000, g)), batch_size=64, shuffle=True)
    vx, vy = make_data(500, g)
    net = Net(8)
    opt = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    sched = torch.optim.lr_scheduler.ExponentialLR(opt, gamma=1.12)
    best = 1e9
    for epoch in range(30):
        net.train()
        total = 0.0
        for x, y in train:
            opt.zero_grad()
            loss = nn.functional.mse_loss(net(x), y)
            loss.backward()
            opt.step()
            total += loss.item() * len(x)
        sched.step()
        net.eval()
        with torch.no_grad():
            val = nn.functional.mse_loss(net(vx), vy).item()
        best = min(best, val)
        print(f"{epoch:3d} train {total / 2000:.4f} val {val:.4f}")
    print(f"best val {best:.4f} last val {val:.4f}")


if __name__ == "__main__":
    main()
