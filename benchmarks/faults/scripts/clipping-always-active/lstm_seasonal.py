import argparse
import math

import torch
import torch.nn as nn


class Forecaster(nn.Module):
    def __init__(self, hidden=40):
        super().__init__()
        self.lstm = nn.LSTM(1, hidden, batch_first=True)
        self.lin = nn.Linear(hidden, 1)

    def forward(self, x):
        o, _ = self.lstm(x)
        return self.lin(o[:, -1]).squeeze(-1)


def build(seed, n=1600, w=24):
    g = torch.Generator().manual_seed(seed)
    t = torch.arange(n).float()
    s = torch.sin(2 * math.pi * t / 20) + 0.6 * torch.sin(2 * math.pi * t / 9) + 0.1 * torch.randn(n, generator=g)
    s = (s - s.mean()) / s.std()
    win = s.unfold(0, w + 1, 1)
    return win[:, :-1, None], win[:, -1]


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--clip", type=float, default=0.005)
args = parser.parse_args()
torch.manual_seed(args.seed)
x, y = build(args.seed)
xt, yt, xv, yv = x[:1200], y[:1200], x[1230:], y[1230:]
model = Forecaster()
opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
mse = nn.MSELoss()
norms = []
for step in range(500):
    i = torch.randint(0, len(xt), (32,))
    loss = mse(model(xt[i]), yt[i])
    opt.zero_grad()
    loss.backward()
    norms.append(nn.utils.clip_grad_norm_(model.parameters(), args.clip).item())
    opt.step()
    if step % 50 == 49:
        with torch.no_grad():
            print(step + 1, f"train {loss.item():.3f} val {mse(model(xv), yv).item():.3f} grad {norms[-1]:.3f}")
print("steps clipped:", sum(n > args.clip for n in norms), "of", len(norms), "median norm", sorted(norms)[250])
