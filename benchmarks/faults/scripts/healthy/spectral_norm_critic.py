"""A Wasserstein critic with spectral norm tells two clouds apart; its loss is negative when it works."""

import argparse

import torch
import torch.nn as nn
from torch.nn.utils.parametrizations import spectral_norm as sn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
critic = nn.Sequential(
    sn(nn.Linear(2, 64)), nn.LeakyReLU(0.1), sn(nn.Linear(64, 64)), nn.LeakyReLU(0.1), sn(nn.Linear(64, 1))
)
opt = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.9))


def clouds(n):
    a = torch.randn(n, 2) * 0.3 + torch.tensor([1.5, 0.0])
    b = torch.randn(n, 2) * 0.3 - torch.tensor([1.5, 0.0])
    return a, b


for step in range(400):
    a, b = clouds(128)
    loss = critic(b).mean() - critic(a).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step % 80 == 0:
        print(f"{step}: estimated distance {-loss.item():.3f}")
