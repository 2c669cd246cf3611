import argparse

import torch
from torch import nn


class DeepLinear(nn.Module):
    def __init__(self, width, depth, scale):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        for m in self.maps:
            nn.init.normal_(m.weight, std=scale / width**0.5)

    def forward(self, x):
        for m in self.maps:
            x = m(x)
        return x


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=0.02)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    teacher = torch.linalg.qr(torch.randn(16, 16))[0]
    net = DeepLinear(16, 3, args.scale)
    opt = torch.optim.SGD(net.parameters(), lr=1.0)
    loss_fn = nn.MSELoss()
    for step in range(800):
        x = torch.randn(128, 16)
        opt.zero_grad()
        loss = loss_fn(net(x), x @ teacher)
        loss.backward()
        opt.step()
        if step % 100 == 0:
            print(f"{step:5d} {loss.item():.5f}")


if __name__ == "__main__":
    main()
