"""Next character of a module's source with an LSTM; the rate is far too low."""

import argparse
import inspect

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, symbols, width=64):
        super().__init__()
        self.embedding = nn.Embedding(symbols, 32)
        self.lstm = nn.LSTM(32, width, batch_first=True)
        self.output = nn.Linear(width, symbols)

    def forward(self, tokens):
        return self.output(self.lstm(self.embedding(tokens))[0])


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
text = inspect.getsource(argparse)
symbols = sorted(set(text))
tokens = torch.tensor([symbols.index(c) for c in text])
model = Model(len(symbols))
optimizer = torch.optim.Adam(model.parameters(), lr=2e-5)
for step in range(300):
    begins = torch.randint(len(tokens) - 33, (24,)).tolist()
    windows = torch.stack([tokens[b : b + 33] for b in begins])
    loss = nn.functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 49:
        print(step + 1, loss.item())
