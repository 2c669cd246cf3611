import argparse
import inspect
import random
import textwrap

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=350)
opt = parser.parse_args()
random.seed(opt.seed)
torch.manual_seed(opt.seed)

text = inspect.getsource(textwrap) + inspect.getsource(random)
chars = sorted(set(text))
stoi = {c: i for i, c in enumerate(chars)}
data = torch.tensor([stoi[c] for c in text])
split = int(len(data) * 0.9)
train_data, val_data = data[:split], data[split:]


class CharGRU(nn.Module):
    def __init__(self, vocab, dim=32, hidden=64):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.rnn = nn.GRU(dim, hidden, batch_first=True)
        self.out = nn.Linear(hidden, vocab)

    def forward(self, x):
        h, _ = self.rnn(self.emb(x))
        return self.out(h)


def batch(src, n=24, length=32):
    i = torch.randint(0, len(src) - length - 1, (n,))
    x = torch.stack([src[j : j + length] for j in i])
    y = torch.stack([src[j + 1 : j + length + 1] for j in i])
    return x, y


net = CharGRU(len(chars))
optim = torch.optim.Adam(net.parameters(), lr=0.2)
ce = nn.CrossEntropyLoss()
for step in range(opt.steps):
    x, y = batch(train_data)
    loss = ce(net(x).flatten(0, 1), y.flatten())
    optim.zero_grad()
    loss.backward()
    optim.step()
    if step % 50 == 0:
        print(step, round(loss.item(), 3))
with torch.no_grad():
    x, y = batch(val_data, 100)
    print("val loss", ce(net(x).flatten(0, 1), y.flatten()).item())
