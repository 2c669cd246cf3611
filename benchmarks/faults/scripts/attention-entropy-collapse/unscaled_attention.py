"""Retrieve a value by its key with a transformer written out by hand."""

import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=250)
args = parser.parse_args()
torch.manual_seed(args.seed)

KEYS, VALUES, PAIRS, WIDTH, HEADS = 16, 8, 12, 64, 4


def sample(n):
    keys = torch.stack([torch.randperm(KEYS)[:PAIRS] for _ in range(n)])
    values = torch.randint(VALUES, (n, PAIRS))
    which = torch.randint(PAIRS, (n,))
    query = keys[torch.arange(n), which]
    tokens = torch.stack([keys, values + KEYS], 2)
    return tokens, query, values[torch.arange(n), which]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.o = nn.Linear(WIDTH, WIDTH)
        for layer in (self.q, self.k):
            nn.init.normal_(layer.weight, std=0.3)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (f(x).view(b, t, HEADS, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = torch.softmax(q @ k.transpose(-2, -1), dim=-1)
        return self.o((weights @ v).transpose(1, 2).reshape(b, t, WIDTH))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.n1, self.n2, self.attention = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Attention()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 128), nn.GELU(), nn.Linear(128, WIDTH))

    def forward(self, x):
        x = x + self.attention(self.n1(x))
        return x + self.mlp(self.n2(x))


class Lookup(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(KEYS + VALUES, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(WIDTH, VALUES)

    def forward(self, tokens, query):
        pairs = self.embed(tokens).sum(2)
        x = torch.cat([pairs, self.embed(query)[:, None]], 1)
        return self.head(self.blocks(x)[:, -1])


model = Lookup()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for step in range(1, args.steps + 1):
    tokens, query, answer = sample(32)
    loss = F.cross_entropy(model(tokens, query), answer)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 25 == 0:
        print(f"step {step}: loss {loss.item():.3f}")
