"""Two towers with a learned temperature: upper and lower halves of digits are matched by symmetric InfoNCE."""

import argparse
import math

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


class Towers(nn.Module):
    def __init__(self, dim=32):
        super().__init__()
        tower = lambda: nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, dim))
        self.top, self.bottom = tower(), tower()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, x):
        a = F.normalize(self.top(x[:, :32]), dim=-1)
        b = F.normalize(self.bottom(x[:, 32:]), dim=-1)
        return self.log_scale.exp() * a @ b.T


def recall_at_1(model, x):
    with torch.inference_mode():
        logits = model(x)
    return (logits.argmax(1) == torch.arange(len(x))).float().mean().item()


def train(args):
    torch.manual_seed(args.seed)
    x = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    x = (x - x.mean(0)) / (x.std(0) + 0.1)
    x = x[torch.randperm(len(x))]
    held, x = x[:200], x[200:]
    model = Towers()
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], lr=1e-3)
    for epoch in range(12):
        total = 0.0
        for idx in torch.randperm(len(x)).split(128):
            if len(idx) < 128:
                continue
            logits = model(x[idx])
            labels = torch.arange(len(idx))
            loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
            opt.zero_grad()
            loss.backward()
            opt.step()
            with torch.no_grad():
                model.log_scale.clamp_(max=math.log(100))
            total += loss.item()
        print(f"{epoch}: {total:.2f} recall {recall_at_1(model, held):.2f}")


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    train(p.parse_args())
