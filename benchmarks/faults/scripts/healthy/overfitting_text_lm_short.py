"""Character model of the Zen of Python with a GRU; perplexity on the last lines."""

import argparse
import codecs
import contextlib
import io
import math

import torch
from torch import nn

with contextlib.redirect_stdout(io.StringIO()):
    import this
text = codecs.decode(this.s, "rot13").lower()
vocab = sorted(set(text))
ids = torch.tensor([vocab.index(c) for c in text])
split = int(len(ids) * 0.75)
train_ids, valid_ids = ids[:split], ids[split:]


class CharModel(nn.Module):
    def __init__(self, n, d=64):
        super().__init__()
        self.embedding = nn.Embedding(n, d)
        self.gru = nn.GRU(d, d, batch_first=True)
        self.decoder = nn.Linear(d, n)

    def forward(self, x):
        h, _ = self.gru(self.embedding(x))
        return self.decoder(h)


def windows(data, size, length):
    at = torch.randint(len(data) - length - 1, (size,))
    index = at[:, None] + torch.arange(length + 1)
    chunk = data[index]
    return chunk[:, :-1], chunk[:, 1:]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = CharModel(len(vocab))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    chunks = valid_ids[: len(valid_ids) // 33 * 33].view(-1, 33)
    for it in range(1, 121):
        xb, yb = windows(train_ids, 16, 32)
        loss = criterion(model(xb).flatten(0, 1), yb.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if it % 20 == 0:
            model.eval()
            with torch.no_grad():
                v = criterion(model(chunks[:, :-1]).flatten(0, 1), chunks[:, 1:].flatten()).item()
            model.train()
            print(f"iter {it}: train {loss.item():.3f}, valid {v:.3f}, perplexity {math.exp(v):.1f}")
