import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression


class Encoder(nn.Module):
    def __init__(self, out=16):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, out))

    def forward(self, x):
        return self.f(x)


def augment(x):
    keep = (torch.rand_like(x) > 0.2).float()
    return x * keep + 0.2 * torch.randn_like(x)


def loss_views(za, zb):
    return F.mse_loss(za, zb)


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--steps", type=int, default=800)
    a = p.parse_args()
    torch.manual_seed(a.seed)
    d = load_digits()
    x = torch.tensor(d.data / 6 - 0.8, dtype=torch.float32)
    enc = Encoder()
    opt = torch.optim.Adam(enc.parameters(), lr=1e-3)
    for step in range(a.steps):
        xb = x[torch.randint(0, 1400, (128,))]
        loss = loss_views(enc(augment(xb)), enc(augment(xb)))
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 100 == 0:
            print(step, f"{loss.item():.6f}")
    with torch.no_grad():
        z = enc(x)
    print("loss", loss.item(), "embedding std", z.std(0).mean().item(), "norm of mean", z.mean(0).norm().item())
    probe = LogisticRegression(max_iter=300).fit(z[:1400].numpy(), d.target[:1400])
    print("linear probe accuracy", probe.score(z[1400:].numpy(), d.target[1400:]))
