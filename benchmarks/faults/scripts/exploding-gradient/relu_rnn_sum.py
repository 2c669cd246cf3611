import argparse

import torch
from torch import nn


class SeqModel(nn.Module):
    def __init__(self, hidden=48):
        super().__init__()
        self.cell_in = nn.Linear(1, hidden)
        self.cell_h = nn.Linear(hidden, hidden, bias=False)
        self.read = nn.Linear(hidden, 1)
        nn.init.orthogonal_(self.cell_h.weight, gain=1.75)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], self.cell_h.in_features)
        for t in range(x.shape[1]):
            h = torch.relu(self.cell_in(x[:, t : t + 1]) + self.cell_h(h))
        return self.read(h).squeeze(1)


def series(n, length, g):
    f = torch.rand(n, 1, generator=g) * 0.4 + 0.05
    ph = torch.rand(n, 1, generator=g) * 6.28
    t = torch.arange(length + 1).float()
    s = torch.sin(f * t + ph) + 0.05 * torch.randn(n, length + 1, generator=g)
    return s[:, :-1], s[:, -1]


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--length", type=int, default=60)
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    g = torch.Generator().manual_seed(args.seed)
    xtr, ytr = series(1500, args.length, g)
    xte, yte = series(300, args.length, g)
    model = SeqModel()
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    norms = []
    for step in range(300):
        i = torch.randint(0, 1500, (32,), generator=g)
        loss = nn.functional.mse_loss(model(xtr[i]), ytr[i])
        opt.zero_grad()
        loss.backward()
        norms.append(torch.cat([q.grad.flatten() for q in model.parameters()]).norm().item())
        opt.step()
        if step % 30 == 0:
            print(step, f"loss {loss.item():.4g} grad {norms[-1]:.3g}")
    with torch.no_grad():
        print(
            "test", nn.functional.mse_loss(model(xte), yte).item(), "median grad", sorted(norms)[150], "max", max(norms)
        )
