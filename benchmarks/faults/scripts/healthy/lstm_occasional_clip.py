import argparse
import inspect
import tarfile

import torch
from torch import nn


class CharLSTM(nn.Module):
    def __init__(self, vocab, hidden=72):
        super().__init__()
        self.embed = nn.Embedding(vocab, 24)
        self.lstm = nn.LSTM(24, hidden, batch_first=True)
        self.out = nn.Linear(hidden, vocab)

    def forward(self, x, state=None):
        h, state = self.lstm(self.embed(x), state)
        return self.out(h), state


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--clip", type=float, default=0.38)
    args = p.parse_args()
    torch.manual_seed(args.seed)
    text = inspect.getsource(tarfile)
    vocab = sorted(set(text))
    ids = torch.tensor([vocab.index(c) for c in text])
    n = int(0.93 * len(ids))
    train, val = ids[:n].unfold(0, 33, 1), ids[n:].unfold(0, 33, 1)
    net = CharLSTM(len(vocab))
    opt = torch.optim.Adam(net.parameters(), lr=6e-3)
    ce = nn.CrossEntropyLoss()
    clipped = 0
    for step in range(1, 401):
        b = train[torch.randint(len(train), (24,))]
        logits, _ = net(b[:, :-1])
        loss = ce(logits.transpose(1, 2), b[:, 1:])
        opt.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), args.clip)
        clipped += int(norm > args.clip)
        opt.step()
        if step % 50 == 0:
            with torch.no_grad():
                b = val[torch.randint(len(val), (100,))]
                v = ce(net(b[:, :-1])[0].transpose(1, 2), b[:, 1:]).item()
            print(f"{step} train {loss.item():.3f} val {v:.3f} norm {norm:.3f} clipped so far {clipped}")
