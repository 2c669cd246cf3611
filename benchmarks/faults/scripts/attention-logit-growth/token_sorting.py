"""Sort eight numbers with a transformer encoder (post-norm free, its own layers)."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn


class Layer(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(dim, dim) for _ in range(4))
        self.ff = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (w(x).view(b, t, self.heads, d // self.heads).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        scores = q @ k.transpose(-2, -1) / (d // self.heads) ** 0.5
        x = x + self.wo((F.softmax(scores, -1) @ v).transpose(1, 2).reshape(b, t, d))
        return x + self.ff(x)


class Sorter(nn.Module):
    def __init__(self, numbers=20, length=8, dim=48):
        super().__init__()
        self.numbers = nn.Embedding(numbers, dim)
        self.slots = nn.Parameter(torch.randn(length, dim) * 0.3)
        self.layers = nn.Sequential(Layer(dim, 4), Layer(dim, 4))
        self.readout = nn.Linear(dim, numbers)

    def forward(self, x):
        return self.readout(self.layers(self.numbers(x) + self.slots))


class Trainer:
    def __init__(self, seed, lr=1e-3):
        torch.manual_seed(seed)
        self.model = Sorter()
        queries_and_keys = [w.weight for layer in self.model.layers for w in (layer.wq, layer.wk)]
        known = {id(p) for p in queries_and_keys}
        rest = [p for p in self.model.parameters() if id(p) not in known]
        self.optimizer = torch.optim.Adam([{"params": rest}, {"params": queries_and_keys, "lr": 50 * lr}], lr=lr)

    def step(self):
        x = torch.randint(20, (32, 8))
        logits = self.model(x)
        loss = F.cross_entropy(logits.transpose(1, 2), x.sort(1).values)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    trainer = Trainer(ap.parse_args().seed)
    for i in range(300):
        value = trainer.step()
        if i % 30 == 29:
            print("step", i + 1, "loss", round(value, 4))
