"""A GAN for 8x8 digits."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=700)
args = parser.parse_args()
torch.manual_seed(args.seed)

real = torch.tensor(load_digits().data / 8 - 1, dtype=torch.float32)
Z = 16

G = nn.Sequential(nn.Linear(Z, 64), nn.ReLU(), nn.Linear(64, 64), nn.Tanh())
D = nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))
opt_d = torch.optim.Adam(D.parameters(), lr=1e-3, betas=(0.5, 0.999))
opt_g = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.999))
bce = nn.BCEWithLogitsLoss()

for step in range(args.steps):
    batch = real[torch.randint(len(real), (64,))]
    fake = G(torch.randn(64, Z))
    opt_d.zero_grad()
    loss_d = bce(D(batch), torch.ones(64, 1)) + bce(D(fake.detach()), torch.zeros(64, 1))
    loss_d.backward()
    opt_d.step()
    for _ in range(1):
        opt_g.zero_grad()
        fake = G(torch.randn(64, Z))
        loss_g = bce(D(fake), torch.ones(64, 1))
        loss_g.backward()
        opt_g.step()
    if step % 100 == 99:
        with torch.no_grad():
            sample = G(torch.randn(500, Z))
        print(
            f"step {step + 1}: D {loss_d.item():.3f} G {loss_g.item():.3f}"
            f" spread of samples {sample.std(0).mean().item():.4f} (real {real.std(0).mean().item():.4f})"
        )
