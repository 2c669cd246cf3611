import argparse
import math

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


def target(x):
    return torch.sin(2 * x[:, :1]) * x[:, 1:2] + 0.5 * x[:, 2:3] ** 2


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
x, xv = torch.randn(2000, 3), torch.randn(500, 3)
y, yv = target(x) + 0.05 * torch.randn(2000, 1), target(xv)
net = nn.Sequential(
    weight_norm(nn.Linear(3, 64)),
    nn.Softplus(),
    weight_norm(nn.Linear(64, 64)),
    nn.Softplus(),
    weight_norm(nn.Linear(64, 1)),
)
opt = torch.optim.Adam(net.parameters(), lr=4e-3)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 480)
for epoch in range(15):
    for idx in torch.randperm(2000).split(64):
        loss = (net(x[idx]) - y[idx]).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
    with torch.no_grad():
        rmse = math.sqrt((net(xv) - yv).square().mean().item())
    print(f"epoch {epoch} train mse {loss.item():.4f} test rmse {rmse:.4f}")
