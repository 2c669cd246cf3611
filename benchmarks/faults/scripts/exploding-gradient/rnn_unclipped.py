"""Characters of a python module, read by a rectified recurrent network that starts from the identity."""

import argparse
import inspect
import typing

import torch
from torch import nn


class CharRNN(nn.Module):
    def __init__(self, width=96):
        super().__init__()
        self.embed = nn.Embedding(128, 32)
        self.rnn = nn.RNN(32, width, nonlinearity="relu", batch_first=True)
        self.out = nn.Linear(width, 128)
        with torch.no_grad():
            self.rnn.weight_hh_l0.copy_(torch.eye(width))
            self.rnn.weight_ih_l0.mul_(0.3)

    def forward(self, x):
        return self.out(self.rnn(self.embed(x))[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=0.05)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    ids = torch.tensor(list(inspect.getsource(typing).encode("ascii", "replace")))
    model = CharRNN()
    opt = torch.optim.SGD(model.parameters(), lr=args.lr)
    for step in range(200):
        at = torch.randint(0, len(ids) - 61, (16,))
        x = torch.stack([ids[i : i + 60] for i in at])
        y = torch.stack([ids[i + 1 : i + 61] for i in at])
        loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 20 == 0:
            print(step, loss.item())
