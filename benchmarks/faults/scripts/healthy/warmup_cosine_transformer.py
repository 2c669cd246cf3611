import argparse
import inspect
import math
import shutil

import torch
import torch.nn as nn


class TinyLM(nn.Module):
    def __init__(self, vocab, T=32, d=48):
        super().__init__()
        self.tok = nn.Embedding(vocab, d)
        self.pos = nn.Parameter(torch.randn(T, d) * 0.02)
        layer = nn.TransformerEncoderLayer(
            d, 4, 3 * d, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, vocab))
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(T))

    def forward(self, x):
        return self.out(self.body(self.tok(x) + self.pos, mask=self.mask, is_causal=True))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    torch.manual_seed(ap.parse_args().seed)
    text = inspect.getsource(shutil) + inspect.getsource(inspect)[:60000]
    vocab = sorted(set(text))
    w = torch.tensor([vocab.index(c) for c in text]).unfold(0, 33, 1)
    cut = int(len(w) * 0.95)
    tr, va = w[:cut], w[cut + 33 :]
    model = TinyLM(len(vocab))
    steps, warm = 500, 50
    opt = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    sched = torch.optim.lr_scheduler.LambdaLR(
        opt, lambda s: min((s + 1) / warm, 0.05 + 0.475 * (1 + math.cos(math.pi * s / steps)))
    )
    ce = nn.CrossEntropyLoss()
    for step in range(steps):
        b = tr[torch.randint(len(tr), (16,))]
        loss = ce(model(b[:, :-1]).flatten(0, 1), b[:, 1:].flatten())
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        opt.step()
        sched.step()
        if step % 50 == 49:
            model.eval()
            with torch.no_grad():
                b = va[torch.randint(len(va), (64,))]
                v = ce(model(b[:, :-1]).flatten(0, 1), b[:, 1:].flatten()).item()
            model.train()
            print(f"{step + 1} lr {sched.get_last_lr()[0]:.1e} train {loss.item():.3f} val {v:.3f}")


main()
