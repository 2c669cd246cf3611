"""Which of eight symbols stood at the marker near the beginning? A recurrent cell of one's own reads on to the end."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn


class Cell(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        self.read = nn.Linear(inputs, width)
        self.carry = nn.Linear(width, width)

    def forward(self, x, state):
        return torch.tanh(self.read(x) + self.carry(state))


class Reader(nn.Module):
    def __init__(self, symbols=8, width=64):
        super().__init__()
        self.cell = Cell(symbols + 1, width)
        self.answer = nn.Linear(width, symbols)
        self.width = width

    def forward(self, x):
        state = x.new_zeros(len(x), self.width)
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.answer(state)


def sequences(count, length=50, symbols=8):
    ids = torch.randint(symbols, (count, length))
    at = torch.randint(0, 5, (count,))
    marker = F.one_hot(at, length).float().unsqueeze(2)
    return torch.cat([F.one_hot(ids, symbols).float(), marker], 2), ids.gather(1, at[:, None]).squeeze(1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = Reader()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=5e-4)
    for step in range(250):
        x, y = sequences(64)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 49:
            print(step + 1, round(loss.item(), 3))


if __name__ == "__main__":
    main()
