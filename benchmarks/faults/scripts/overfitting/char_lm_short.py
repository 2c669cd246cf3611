import argparse
import bisect
import heapq
import inspect

import torch
import torch.nn as nn
import torch.nn.functional as F


class CharLM(nn.Module):
    def __init__(self, vocab, context=12, emb=24, hidden=192):
        super().__init__()
        self.e = nn.Embedding(vocab, emb)
        self.h1 = nn.Linear(context * emb, hidden)
        self.h2 = nn.Linear(hidden, hidden)
        self.o = nn.Linear(hidden, vocab)

    def forward(self, x):
        h = F.gelu(self.h1(self.e(x).flatten(1)))
        h = F.gelu(self.h2(h))
        return self.o(h)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--steps", type=int, default=1000)
    ap.add_argument("--chars", type=int, default=3000)
    a = ap.parse_args()
    torch.manual_seed(a.seed)
    src = inspect.getsource(heapq) + inspect.getsource(bisect)
    vocab = sorted(set(src))
    ids = torch.tensor([vocab.index(c) for c in src])
    win = ids.unfold(0, 13, 1)
    tr, va = win[: a.chars], win[-2500:]
    model = CharLM(len(vocab))
    opt = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0.01)
    best = float("inf")
    for step in range(1, a.steps + 1):
        b = tr[torch.randint(len(tr), (64,))]
        loss = F.cross_entropy(model(b[:, :-1]), b[:, -1])
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 50 == 0:
            model.eval()
            with torch.no_grad():
                v = F.cross_entropy(model(va[:, :-1]), va[:, -1]).item()
            model.train()
            best = min(best, v)
            print(f"step {step} train {loss.item():.3f} val {v:.3f} best {best:.3f}")


if __name__ == "__main__":
    main()
