"""A small causal transformer on python's own source."""

import argparse
import inspect
import math
import textwrap
import typing as t_module

import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.heads = heads

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, c))
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module):
    def __init__(self, vocab, width=64, depth=2, heads=4, context=48):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.ln, self.head = nn.LayerNorm(width), nn.Linear(width, vocab, bias=False)
        for m in self.modules():
            if isinstance(m, (nn.Linear, nn.Embedding)):
                nn.init.normal_(m.weight, std=0.02)

    def forward(self, idx):
        x = self.tok(idx) + self.pos(torch.arange(idx.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln(x))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    text = inspect.getsource(argparse) + inspect.getsource(t_module) + inspect.getsource(textwrap)
    vocab = sorted(set(text))
    ids = torch.tensor([vocab.index(c) for c in text])
    blocks = ids[: len(ids) // 500 * 500].view(-1, 500)
    blocks = blocks[torch.randperm(len(blocks))]  # held-out blocks come from all files
    ids = blocks.flatten()
    split = len(blocks) * 9 // 10 * 500
    model = GPT(len(vocab))
    opt = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    steps, context = 240, 48
    for step in range(steps):
        lr = 3e-3 * min(1.0, (step + 1) / 20) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        for group in opt.param_groups:
            group["lr"] = lr
        at = torch.randint(0, split - context - 1, (24,))
        x = torch.stack([ids[i : i + context] for i in at])
        y = torch.stack([ids[i + 1 : i + context + 1] for i in at])
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        if step % 40 == 0:
            with torch.no_grad():
                at = torch.randint(split, len(ids) - context - 1, (24,))
                xv = torch.stack([ids[i : i + context] for i in at])
                yv = torch.stack([ids[i + 1 : i + context + 1] for i in at])
                val = F.cross_entropy(model(xv).flatten(0, 1), yv.flatten())
            print(f"step {step:4d} train {loss.item():.3f} val {val.item():.3f}")


if __name__ == "__main__":
    main()
