"""GRU language model; a binary file has slipped into the corpus."""

import argparse
import inspect
import tokenize
import typing

import torch
import torch.nn as nn


class LM(nn.Module):
    def __init__(self, vocab, width=96):
        super().__init__()
        self.embed = nn.Embedding(vocab, 48)
        self.gru = nn.GRU(48, width, batch_first=True)
        self.out = nn.Linear(width, vocab)

    def forward(self, x):
        return self.out(self.gru(self.embed(x))[0])


def corpus():
    text = inspect.getsource(typing) + inspect.getsource(tokenize)
    ids = torch.tensor(list(text.encode("ascii", "replace")), dtype=torch.long)
    rows = ids[: len(ids) // 33 * 33].view(-1, 33)
    return rows[torch.randperm(len(rows))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    rows = corpus()
    junk = torch.randint(0, 256, (8 * 24, 33))
    at = 24 * 170
    rows = rows.repeat(3, 1)[: 24 * 300]
    rows = torch.cat([rows[:at], junk, rows[at:]])
    model = LM(256)
    opt = torch.optim.Adam(model.parameters(), lr=4e-3)
    for step, batch in enumerate(rows.split(24)):
        loss = nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 30 == 0:
            print(step, loss.item())
