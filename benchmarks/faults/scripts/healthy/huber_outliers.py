import argparse

import numpy as np
import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
rng = np.random.default_rng(args.seed)
torch.manual_seed(args.seed)
x = rng.uniform(-2, 2, (1500, 2))
clean = np.sin(2 * x[:, 0]) + 0.5 * x[:, 1]
noisy = clean + 0.1 * rng.standard_normal(1500)
hit = rng.random(1500) < 0.03
noisy[hit] += rng.normal(0, 4, hit.sum())
X, t = torch.tensor(x, dtype=torch.float32), torch.tensor(noisy, dtype=torch.float32)
clean = torch.tensor(clean, dtype=torch.float32)
f = nn.Sequential(nn.Linear(2, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
opt = torch.optim.Adam(f.parameters(), lr=3e-3)
loss_fn = nn.SmoothL1Loss(beta=0.3)
for epoch in range(15):
    for idx in torch.randperm(1200).split(50):
        loss = loss_fn(f(X[idx]).squeeze(1), t[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        err = (f(X[1200:]).squeeze(1) - clean[1200:]).abs().mean().item()
    print(f"{epoch} {loss.item():.4f} error against the clean signal {err:.4f}")
