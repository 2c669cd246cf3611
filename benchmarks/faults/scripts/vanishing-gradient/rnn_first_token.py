"""Remember the first token of a long sequence, with a plain recurrent network."""

import argparse

import torch
from torch import nn


class Memory(nn.Module):
    def __init__(self, symbols=4, width=48):
        super().__init__()
        self.embed = nn.Embedding(symbols, 16)
        self.rnn = nn.RNN(16, width, batch_first=True)
        self.out = nn.Linear(width, symbols)

    def forward(self, x):
        _, h = self.rnn(self.embed(x))
        return self.out(h[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--length", type=int, default=60)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = Memory()
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(300):
        x = torch.randint(0, 4, (64, args.length))
        loss = nn.functional.cross_entropy(model(x), x[:, 0])
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 50 == 0:
            with torch.no_grad():
                x = torch.randint(0, 4, (400, args.length))
                acc = (model(x).argmax(1) == x[:, 0]).float().mean().item()
            print(step, round(loss.item(), 4), "accuracy", round(acc, 3))


main()
