"""REINFORCE with a baseline on a contextual bandit: noisy losses that say little, rewards that rise."""

import argparse

import torch
from torch import nn
from torch.distributions import Categorical

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
truth = torch.randn(8, 4)
policy = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))
opt = torch.optim.Adam(policy.parameters(), lr=5e-3)
baseline = 0.0
for it in range(400):
    context = torch.randn(128, 8)
    dist = Categorical(logits=policy(context))
    action = dist.sample()
    best = (context @ truth).argmax(1)
    reward = (action == best).float() + 0.1 * torch.randn(128)
    advantage = reward - baseline
    loss = -(dist.log_prob(action) * advantage).mean() - 0.005 * dist.entropy().mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    baseline = 0.9 * baseline + 0.1 * reward.mean().item()
    if it % 50 == 0:
        print(f"{it} reward {reward.mean().item():.3f} loss {loss.item():.4f}")
