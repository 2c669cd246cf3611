import argparse
import difflib
import inspect

import torch
import torch.nn as nn
import torch.nn.functional as F


class SelfAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** 1.5
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.softmax = nn.Softmax(dim=-1)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, mask):
        B, T, D = x.shape
        split = lambda t: t.view(B, T, self.heads, D // self.heads).transpose(1, 2)
        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        att = self.softmax((q @ k.transpose(-2, -1)) * self.scale + mask)
        self.last = att.detach()
        return self.proj((att @ v).transpose(1, 2).reshape(B, T, D))


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.att = SelfAttention(dim, heads)
        self.ff = nn.Sequential(nn.Linear(dim, 3 * dim), nn.ReLU(), nn.Linear(3 * dim, dim))

    def forward(self, x, mask):
        x = x + self.att(self.ln1(x), mask)
        return x + self.ff(self.ln2(x))


class Model(nn.Module):
    def __init__(self, vocab, T=24, dim=48, heads=4, depth=2):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab, dim), nn.Embedding(T, dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.head = nn.Linear(dim, vocab)
        self.register_buffer("mask", torch.triu(torch.full((T, T), -1e9), 1))

    def forward(self, x):
        h = self.tok(x) + self.pos.weight
        for b in self.blocks:
            h = b(h, self.mask)
        return self.head(h)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    torch.manual_seed(p.parse_args().seed)
    text = inspect.getsource(difflib)[:30000]
    vocab = sorted(set(text))
    ids = torch.tensor([vocab.index(c) for c in text]).unfold(0, 25, 1)
    tr, va = ids[:26000], ids[26100:]
    model = Model(len(vocab))
    opt = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(1, 401):
        b = tr[torch.randint(len(tr), (16,))]
        loss = F.cross_entropy(model(b[:, :-1]).flatten(0, 1), b[:, 1:].flatten())
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 50 == 0:
            with torch.no_grad():
                b = va[torch.randint(len(va), (48,))]
                v = F.cross_entropy(model(b[:, :-1]).flatten(0, 1), b[:, 1:].flatten()).item()
                ent = [-(l.att.last * (l.att.last + 1e-12).log()).sum(-1).mean().item() for l in model.blocks]
            print(f"{step} train {loss.item():.3f} val {v:.3f} attention entropy {[round(e, 3) for e in ent]}")


if __name__ == "__main__":
    main()
