"""A denoising diffusion model of two moons."""

import argparse
import math

import torch
import torch.nn as nn
from sklearn.datasets import make_moons


class TimeMLP(nn.Module):
    def __init__(self, width=128, frequencies=16):
        super().__init__()
        self.register_buffer("freqs", torch.exp(torch.linspace(0, math.log(100.0), frequencies)))
        self.inp = nn.Linear(2 + 2 * frequencies, width)
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
                for _ in range(3)
            ]
        )
        self.out = nn.Linear(width, 2)

    def forward(self, x, t):
        angles = t[:, None] * self.freqs
        h = self.inp(torch.cat([x, angles.sin(), angles.cos()], dim=1))
        for block in self.blocks:
            h = h + block(h)
        return self.out(h)


class Diffusion:
    def __init__(self, model, steps=100):
        self.model = model
        betas = torch.linspace(1e-4, 0.08, steps)
        self.alpha_bar = torch.cumprod(1 - betas, 0)
        self.steps = steps

    def loss(self, x0):
        t = torch.randint(0, self.steps, (len(x0),))
        noise = torch.randn_like(x0)
        a = self.alpha_bar[t][:, None]
        noisy = a.sqrt() * x0 + (1 - a).sqrt() * noise
        return nn.functional.mse_loss(self.model(noisy, t / self.steps), noise)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--lr", type=float, default=1e-3)
    a = p.parse_args()
    torch.manual_seed(a.seed)
    points, _ = make_moons(4000, noise=0.05, random_state=a.seed)
    x = torch.tensor(points, dtype=torch.float32)
    x = (x - x.mean(0)) / x.std(0)
    net = TimeMLP()
    diffusion = Diffusion(net)
    opt = torch.optim.AdamW(net.parameters(), lr=a.lr)
    for it in range(800):
        batch = x[torch.randint(0, len(x), (256,))]
        loss = diffusion.loss(batch)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        if it % 100 == 0:
            print(it, round(loss.item(), 4))


if __name__ == "__main__":
    main()
