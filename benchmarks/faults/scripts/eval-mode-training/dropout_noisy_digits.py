import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn


class Classifier(nn.Module):
    def __init__(self, d, h=256, p=0.5):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(d, h),
            nn.ReLU(),
            nn.Dropout(p),
            nn.Linear(h, h),
            nn.ReLU(),
            nn.Dropout(p),
        )
        self.head = nn.Linear(h, 10)

    def forward(self, x):
        return self.head(self.body(x))


class Loop:
    def __init__(self, model, opt, loss):
        self.model, self.opt, self.loss = model, opt, loss
        self.model.train()

    def step(self, x, y):
        self.opt.zero_grad()
        l = self.loss(self.model(x), y)
        l.backward()
        self.opt.step()
        return l.item()

    @torch.no_grad()
    def check(self, x, y):
        self.model.eval()
        o = self.model(x)
        return self.loss(o, y).item(), (o.argmax(1) == y).float().mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.manual_seed(seed)
    X, y = load_digits(return_X_y=True)
    X = (X - 4.9) / 6 + np.random.default_rng(seed).normal(scale=0.9, size=X.shape)
    Xt, Xv, yt, yv = train_test_split(X, y, test_size=0.4, random_state=seed)
    Xt, Xv = torch.tensor(Xt, dtype=torch.float32), torch.tensor(Xv, dtype=torch.float32)
    yt, yv = torch.tensor(yt), torch.tensor(yv)
    model = Classifier(64)
    loop = Loop(model, torch.optim.Adam(model.parameters(), lr=1e-3), nn.CrossEntropyLoss())
    for epoch in range(30):
        ls = [loop.step(Xt[b], yt[b]) for b in torch.randperm(len(Xt)).split(32)]
        v, acc = loop.check(Xv, yv)
        print(
            f"epoch {epoch} train {np.mean(ls):.4f} val {v:.4f} acc {acc:.3f} mode {'train' if model.training else 'eval'}"
        )


main()
