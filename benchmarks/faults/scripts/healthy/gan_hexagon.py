import argparse
import math

import torch
from torch import nn


def real(n):
    k = torch.randint(0, 6, (n,)).float() * math.pi / 3
    return torch.stack([k.cos(), k.sin()], 1) * 1.3 + 0.12 * torch.randn(n, 2)


def mlp(i, o):
    return nn.Sequential(nn.Linear(i, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, o))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    torch.manual_seed(p.parse_args().seed)
    G, D = mlp(8, 2), mlp(2, 1)
    og = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.9))
    od = torch.optim.Adam(D.parameters(), lr=1e-3, betas=(0.5, 0.9))
    bce = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(128, 1), torch.zeros(128, 1)
    for step in range(1200):
        x = real(128)
        fake = G(torch.randn(128, 8))
        ld = bce(D(x), 0.9 * ones) + bce(D(fake.detach()), zeros)
        od.zero_grad()
        ld.backward()
        od.step()
        lg = bce(D(fake), ones)
        og.zero_grad()
        lg.backward()
        og.step()
        if step % 150 == 149:
            with torch.no_grad():
                s = G(torch.randn(2000, 8))
                ang = torch.atan2(s[:, 1], s[:, 0])
                near = ((ang / (math.pi / 3)).round() % 6).long().bincount(minlength=6) / 2000
            print(
                f"{step + 1} D {ld.item():.3f} G {lg.item():.3f} radius {s.norm(dim=1).mean().item():.3f} share per mode {[round(v, 2) for v in near.tolist()]}"
            )


main()
