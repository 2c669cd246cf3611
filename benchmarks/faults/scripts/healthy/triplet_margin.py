"""Digits embedded with triplets and a margin."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.manual_seed(args.seed)

digits = load_digits()
x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
members = [torch.nonzero(y == c).flatten() for c in range(10)]


def triplets(count):
    anchor = torch.randint(len(x), (count,))
    other = (y[anchor] + torch.randint(1, 10, (count,))) % 10
    pick = lambda classes: torch.stack([members[c][torch.randint(len(members[c]), ())] for c in classes.tolist()])
    return x[anchor], x[pick(y[anchor])], x[pick(other)]


model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
criterion = nn.TripletMarginLoss(margin=1.0)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for step in range(400):
    anchor, positive, negative = triplets(64)
    loss = criterion(model(anchor), model(positive), model(negative))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 40 == 0:
        print(step, round(loss.item(), 4))
