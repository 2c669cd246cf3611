import argparse
import textwrap

import torch
import torch.nn as nn


class Recurrent(nn.Module):
    def __init__(self, n, width=48):
        super().__init__()
        self.embed = nn.Embedding(n, 24)
        self.rnn = nn.GRU(24, width, batch_first=True)
        self.proj = nn.Linear(width, n)

    def forward(self, x):
        return self.proj(self.rnn(self.embed(x))[0])


def corpus():
    with open(textwrap.__file__) as f:
        text = f.read()
    symbols = sorted(set(text))
    index = {s: i for i, s in enumerate(symbols)}
    return torch.tensor([index[c] for c in text]), len(symbols)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--lr", type=float, default=0.005)
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    ids, n = corpus()
    model = Recurrent(n)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    for step in range(250):
        starts = torch.randint(0, len(ids) - 33, (16,))
        chunk = torch.stack([ids[s : s + 33] for s in starts])
        out = model(chunk[:, :-1])
        loss = nn.functional.cross_entropy(out.transpose(1, 2), chunk[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 25 == 24:
            print(step + 1, round(loss.item(), 3))


main()
