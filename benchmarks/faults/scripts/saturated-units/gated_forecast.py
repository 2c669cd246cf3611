import argparse

import numpy as np
import torch
from torch import nn


class GatedMLP(nn.Module):
    """Gated regressor with soft switches."""

    def __init__(self, d, h=48, steepness=25.0):
        super().__init__()
        self.value = nn.Linear(d, h)
        self.gate = nn.Linear(d, h)
        self.hidden = nn.Linear(h, h)
        self.switch = nn.Sigmoid()
        self.squash = nn.Tanh()
        self.out = nn.Linear(h, 1)
        self.k = steepness

    def forward(self, x):
        g = self.switch(self.k * self.gate(x))
        z = self.squash(self.k * self.hidden(g * self.value(x)))
        return self.out(z).squeeze(-1)


def windows(seed, n=3000, w=16):
    rng = np.random.default_rng(seed)
    t = np.arange(n)
    s = np.sin(2 * np.pi * t / 24) + 0.5 * np.sin(2 * np.pi * t / 7.3) + 0.1 * rng.normal(size=n)
    s = (s - s.mean()) / s.std()
    X = np.lib.stride_tricks.sliding_window_view(s, w)[:-1]
    return torch.tensor(X.copy(), dtype=torch.float32), torch.tensor(s[w:].copy(), dtype=torch.float32)


ap = argparse.ArgumentParser()
ap.add_argument("--seed", type=int, default=0)
args = ap.parse_args()
torch.manual_seed(args.seed)
X, y = windows(args.seed)
n = 2400
model = GatedMLP(16)
opt = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
mse = nn.MSELoss()
for step in range(1000):
    i = torch.randint(0, n, (64,))
    loss = mse(model(X[i]), y[i])
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step % 100 == 99:
        with torch.no_grad():
            print(step + 1, f"train {loss.item():.4f} val {mse(model(X[n:]), y[n:]).item():.4f}")
with torch.no_grad():
    g = model.switch(model.k * model.gate(X))
    z = model.squash(model.k * model.hidden(g * model.value(X)))
    print(
        "gates within 0.02 of 0/1:",
        ((g < 0.02) | (g > 0.98)).float().mean().item(),
        "tanh |z|>.97:",
        (z.abs() > 0.97).float().mean().item(),
    )
