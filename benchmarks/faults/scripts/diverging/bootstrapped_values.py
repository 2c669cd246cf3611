"""Value iteration with a network that chases its own predictions: no target copy, and gradients through both sides."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
states = torch.randn(200, 6)
following = 1.3 * states[torch.randperm(200)] + 0.3 * torch.randn(200, 6)
reward = torch.tanh(states[:, :1])
value = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 1))
opt = torch.optim.SGD(value.parameters(), lr=0.01)
for step in range(600):
    idx = torch.randint(0, 200, (64,))
    with torch.no_grad():
        goal = reward[idx] + 1.2 * value(following[idx])
    loss = nn.functional.mse_loss(value(states[idx]), goal)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step % 60 == 0:
        print(step, loss.item(), value(states).abs().mean().item())
