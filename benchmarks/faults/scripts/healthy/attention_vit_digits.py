"""A vision transformer on digits: sixteen patches of 2x2 pixels."""

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


class SelfAttention(nn.Module):
    def __init__(self, dim, heads, temperature):
        super().__init__()
        self.heads, self.temperature = heads, temperature
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-1, -2) / self.temperature
        return self.proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(b, n, d))


class ViT(nn.Module):
    def __init__(self, dim=48, depth=3, heads=4, temperature=3.5):
        super().__init__()
        self.embed = nn.Linear(4, dim)
        self.pos = nn.Parameter(0.1 * torch.randn(1, 16, dim))
        self.layers = nn.ModuleList()
        for _ in range(depth):
            mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
            self.layers.append(nn.ModuleList([nn.LayerNorm(dim), SelfAttention(dim, heads, temperature), mlp]))
        self.head = nn.Linear(dim, 10)

    def forward(self, images):
        b = len(images)
        patches = images.reshape(b, 4, 2, 4, 2).transpose(2, 3).reshape(b, 16, 4)
        x = self.embed(patches) + self.pos
        for norm, attention, mlp in self.layers:
            x = x + attention(norm(x))
            x = x + mlp(x)
        return self.head(x.mean(1))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
    order = torch.randperm(len(x))
    train, test = order[:1400], order[1400:]
    model = ViT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(6):
        for idx in train[torch.randperm(1400)].split(32):
            loss = F.cross_entropy(model(x[idx]), y[idx])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            accuracy = (model(x[test]).argmax(1) == y[test]).float().mean()
        print(f"epoch {epoch}: loss {loss.item():.3f} test accuracy {accuracy:.3f}")


main()
