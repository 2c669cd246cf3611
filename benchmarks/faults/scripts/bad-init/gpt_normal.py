import argparse
import collections
import inspect

import torch
import torch.nn as nn
import torch.nn.functional as F


class Attention(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.h = h
        self.qkv = nn.Linear(d, 3 * d)
        self.o = nn.Linear(d, d)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.h, D // self.h).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(B, T, D))


class Layer(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.att = Attention(d, h)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        x = x + self.att(self.n1(x))
        return x + self.mlp(self.n2(x))


class GPT(nn.Module):
    def __init__(self, vocab, block=32, d=48, h=4, n=2):
        super().__init__()
        self.emb = nn.Embedding(vocab, d)
        self.pos = nn.Embedding(block, d)
        self.layers = nn.ModuleList([Layer(d, h) for _ in range(n)])
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, vocab)
        self.apply(self._init)

    def _init(self, m):
        if isinstance(m, (nn.Linear, nn.Embedding)):
            nn.init.normal_(m.weight, mean=0.0, std=1.0)
        if isinstance(m, nn.Linear):
            nn.init.zeros_(m.bias)

    def forward(self, ids):
        x = self.emb(ids) + self.pos(torch.arange(ids.shape[1]))
        for l in self.layers:
            x = l(x)
        return self.head(self.norm(x))


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    text = inspect.getsource(collections)
    vocab = sorted(set(text))
    ids = torch.tensor([vocab.index(c) for c in text])
    tr, va = ids[:-4000], ids[-4000:]
    model = GPT(len(vocab))
    opt = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def sample(src, n):
        s = torch.randint(len(src) - 33, (n,))
        b = torch.stack([src[i : i + 33] for i in s])
        return b[:, :-1], b[:, 1:]

    for step in range(350):
        x, y = sample(tr, 16)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 50 == 0 or step == 349:
            with torch.no_grad():
                x, y = sample(va, 64)
                print(
                    step,
                    f"train {loss.item():.3f} val {F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item():.3f}",
                )
