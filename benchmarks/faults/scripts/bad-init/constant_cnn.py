"""A small convolutional network whose filters start from a constant."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)

data = load_digits()
x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
x = (x - x.mean()) / x.std()
y = torch.tensor(data.target)

model = nn.Sequential(
    nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 24, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 16, 10)
)
for name, p in model.named_parameters():
    if p.dim() > 1:
        nn.init.constant_(p, 1.0 / p[0].numel())
    else:
        nn.init.zeros_(p)

optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for step in range(250):
    i = torch.randint(1500, (48,))
    loss = nn.functional.cross_entropy(model(x[i]), y[i])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 49:
        with torch.no_grad():
            print(step + 1, loss.item(), (model(x[1500:]).argmax(1) == y[1500:]).float().mean().item())
