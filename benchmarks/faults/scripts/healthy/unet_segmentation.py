"""Segment discs in noise with a two-level U-Net."""

import argparse

import torch
import torch.nn as nn


def double(i, o):
    return nn.Sequential(
        nn.Conv2d(i, o, 3, padding=1),
        nn.InstanceNorm2d(o, affine=True),
        nn.ReLU(),
        nn.Conv2d(o, o, 3, padding=1),
        nn.ReLU(),
    )


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = double(1, 8), double(8, 16)
        self.pool, self.up = nn.MaxPool2d(2), nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.last, self.out = double(16, 8), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(self.pool(a))
        return self.out(self.last(torch.cat([a, self.up(b)], 1)))


def discs(n, size=24):
    line = torch.arange(size).float()
    yy, xx = torch.meshgrid(line, line, indexing="ij")
    cx, cy, r = (torch.rand(n, 1, 1) * 14 + 5, torch.rand(n, 1, 1) * 14 + 5, torch.rand(n, 1, 1) * 4 + 3)
    mask = (((xx - cx) ** 2 + (yy - cy) ** 2) < r**2).float()
    image = mask + 0.6 * torch.randn(n, size, size)
    return image.unsqueeze(1), mask.unsqueeze(1)


def dice(logits, mask):
    p = (logits > 0).float()
    return (2 * (p * mask).sum() / (p.sum() + mask.sum())).item()


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
net = UNet()
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
bce = nn.BCEWithLogitsLoss()
xv, mv = discs(100)
for step in range(220):
    x, m = discs(16)
    loss = bce(net(x), m)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step % 40 == 0:
        net.eval()
        with torch.no_grad():
            out = net(xv)
        net.train()
        print(step, round(loss.item(), 4), round(bce(out, mv).item(), 4), "dice", round(dice(out, mv), 3))
