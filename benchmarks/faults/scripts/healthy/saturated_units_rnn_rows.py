"""Read digits row by row with an Elman network."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn


class RowReader(nn.Module):
    def __init__(self, hidden=64):
        super().__init__()
        self.cell = nn.RNNCell(8, hidden)
        self.squash = nn.Tanh()
        self.inp = nn.Linear(8, hidden)
        self.rec = nn.Linear(hidden, hidden, bias=False)
        self.out = nn.Linear(hidden, 10)
        self.hidden = hidden
        nn.init.normal_(self.rec.weight, std=0.1)
        del self.cell

    def forward(self, images):
        state = images.new_zeros(len(images), self.hidden)
        for row in images.unbind(1):
            state = self.squash(self.inp(row) + self.rec(state))
        return self.out(state)


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
pixels, digit = load_digits(return_X_y=True)
images = torch.tensor(pixels, dtype=torch.float32).view(-1, 8, 8) / 16 * 2 - 1
digit = torch.tensor(digit)
model = RowReader()
optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
for step in range(250):
    idx = torch.randint(1500, (32,))
    loss = nn.functional.cross_entropy(model(images[idx]), digit[idx])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 49:
        with torch.no_grad():
            accuracy = (model(images[1500:]).argmax(1) == digit[1500:]).float().mean().item()
        print(f"{step + 1}: loss {loss.item():.3f} accuracy {accuracy:.3f}")
