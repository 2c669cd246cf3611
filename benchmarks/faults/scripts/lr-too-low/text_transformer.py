import argparse
import argparse as _ap
import inspect
import json.decoder

import numpy as np
import torch
import torch.nn as nn

cfg = dict(dim=48, heads=4, layers=2, block=32, batch=16, steps=350, lr=2e-5)


class LM(nn.Module):
    def __init__(self, vocab, c):
        super().__init__()
        self.tok = nn.Embedding(vocab, c["dim"])
        self.pos = nn.Parameter(0.02 * torch.randn(c["block"], c["dim"]))
        layer = nn.TransformerEncoderLayer(
            c["dim"], c["heads"], 4 * c["dim"], dropout=0.0, batch_first=True, norm_first=True
        )
        self.enc = nn.TransformerEncoder(layer, c["layers"], enable_nested_tensor=False)
        self.norm = nn.LayerNorm(c["dim"])
        self.head = nn.Linear(c["dim"], vocab)
        self.register_buffer("mask", torch.triu(torch.full((c["block"], c["block"]), float("-inf")), 1))

    def forward(self, x):
        h = self.tok(x) + self.pos
        return self.head(self.norm(self.enc(h, mask=self.mask)))


def main(seed):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    text = inspect.getsource(_ap) + inspect.getsource(json.decoder)
    vocab = sorted(set(text))
    ids = np.array([vocab.index(c) for c in text])
    cut = int(0.9 * len(ids))
    tr, va = ids[:cut], ids[cut:]

    def get(a, n):
        s = rng.integers(0, len(a) - cfg["block"] - 1, n)
        w = np.stack([a[i : i + cfg["block"] + 1] for i in s])
        w = torch.from_numpy(w)
        return w[:, :-1], w[:, 1:]

    model = LM(len(vocab), cfg)
    opt = torch.optim.AdamW(model.parameters(), lr=cfg["lr"], weight_decay=0.01)
    loss_fn = nn.CrossEntropyLoss()
    for it in range(cfg["steps"]):
        x, y = get(tr, cfg["batch"])
        loss = loss_fn(model(x).reshape(-1, len(vocab)), y.reshape(-1))
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        if (it + 1) % 50 == 0:
            with torch.no_grad():
                vx, vy = get(va, 32)
                v = loss_fn(model(vx).reshape(-1, len(vocab)), vy.reshape(-1)).item()
            print(f"iter {it + 1} train {loss.item():.3f} val {v:.3f}")


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    main(ap.parse_args().seed)
