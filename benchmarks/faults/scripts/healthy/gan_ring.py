"""A small GAN on eight Gaussians in a ring, evaluated by how many modes the samples reach."""

import argparse
import math

import torch
import torch.nn as nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=700)
args = parser.parse_args()
torch.manual_seed(args.seed)

angles = torch.arange(8) * (2 * math.pi / 8)
centers = torch.stack([angles.cos(), angles.sin()], 1)


def real(n):
    return centers[torch.randint(8, (n,))] + 0.1 * torch.randn(n, 2)


def mlp(i, o):
    return nn.Sequential(nn.Linear(i, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, o))


G, D = mlp(8, 2), mlp(2, 1)
opt_g = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.99))
opt_d = torch.optim.Adam(D.parameters(), lr=1e-3, betas=(0.5, 0.99))
bce = nn.BCEWithLogitsLoss()
ones, zeros = torch.ones(128, 1), torch.zeros(128, 1)
for step in range(args.steps):
    fake = G(torch.randn(128, 8))
    d_loss = bce(D(real(128)), ones * 0.9) + bce(D(fake.detach()), zeros)
    opt_d.zero_grad()
    d_loss.backward()
    opt_d.step()

    g_loss = bce(D(G(torch.randn(128, 8))), ones)
    opt_g.zero_grad()
    g_loss.backward()
    opt_g.step()
    if step % 100 == 0:
        with torch.no_grad():
            samples = G(torch.randn(512, 8))
            near = torch.cdist(samples, centers).min(1)
            modes = near.indices[near.values < 0.4].unique().numel()
        print(f"step {step} D {d_loss.item():.3f} G {g_loss.item():.3f} modes {modes}")
