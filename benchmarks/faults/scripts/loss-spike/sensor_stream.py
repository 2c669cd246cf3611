import argparse

import numpy as np
import torch
from torch import nn

ap = argparse.ArgumentParser()
ap.add_argument("--seed", type=int, default=0)
args = ap.parse_args()
torch.manual_seed(args.seed)


class SensorStream:
    """Simulated plant: 12 sensors, one slow quality variable."""

    def __init__(self, seed, glitch_at=()):
        self.rng = np.random.default_rng(seed)
        self.w = np.random.default_rng(7).normal(size=(12, 6))
        self.v = np.random.default_rng(8).normal(size=6) / 2
        self.glitch_at = set(glitch_at)
        self.t = 0

    def next(self, n=32):
        x = self.rng.normal(size=(n, 12))
        y = np.tanh(x @ self.w / 3) @ self.v + 0.05 * self.rng.normal(size=n)
        if self.t in self.glitch_at:
            x[: n // 4, 3:6] = 400.0
        self.t += 1
        return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)


stream = SensorStream(args.seed, glitch_at=[620])
holdout = SensorStream(args.seed + 99)
hx, hy = holdout.next(1000)
model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
opt = torch.optim.Adam(model.parameters(), lr=2e-3)
losses = []
for step in range(1000):
    x, y = stream.next()
    loss = (model(x).squeeze(-1) - y).pow(2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    losses.append(loss.item())
    if step % 100 == 99:
        with torch.no_grad():
            print(
                step + 1,
                "train",
                round(float(np.mean(losses[-100:])), 4),
                "holdout",
                round((model(hx).squeeze(-1) - hy).pow(2).mean().item(), 4),
            )
print(
    "max after step 200:",
    max(losses[200:]),
    "at",
    200 + int(np.argmax(losses[200:])),
    "median last 100:",
    float(np.median(losses[-100:])),
)
