import argparse
import inspect
import string

import torch
import torch.nn as nn
import torch.nn.functional as F


class TinyTransformer(nn.Module):
    def __init__(self, vocab, width=32, context=24):
        super().__init__()
        self.tok = nn.Embedding(vocab, width)
        self.pos = nn.Parameter(torch.randn(context, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(width, vocab)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(context))

    def forward(self, idx):
        h = self.tok(idx) + self.pos[: idx.shape[1]]
        return self.out(self.body(h, mask=self.mask, is_causal=True))


def main(seed, steps=250, warmup=20):
    torch.manual_seed(seed)
    text = inspect.getsource(string) + inspect.getsource(argparse)[:20000]
    chars = sorted(set(text))
    table = {c: i for i, c in enumerate(chars)}
    corpus = torch.tensor([table[c] for c in text])
    model = TinyTransformer(len(chars))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / warmup))
    for step in range(steps):
        at = torch.randint(len(corpus) - 25, (16,))
        batch = torch.stack([corpus[i : i + 25] for i in at])
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, len(chars)), batch[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step % 25 == 0:
            print(f"step {step} loss {loss.item():.3f} lr {scheduler.get_last_lr()[0]:.2e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args().seed)
