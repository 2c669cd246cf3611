"""Embeddings of digits: two noisy views of an image shall lie close to each other."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn


class Encoder(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, dim))

    def forward(self, x):
        return self.net(x)


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.manual_seed(args.seed)

x = torch.tensor(load_digits().data / 16, dtype=torch.float32)
y = torch.tensor(load_digits().target)
encoder = Encoder()
optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)


def augment(batch):
    return batch + 0.15 * torch.randn_like(batch)


def nearest_neighbour_accuracy():
    with torch.no_grad():
        z = encoder(x)
    distance = torch.cdist(z[1000:], z[:1000])
    return (y[:1000][distance.argmin(1)] == y[1000:]).float().mean().item()


print(f"before: 1-nn accuracy {nearest_neighbour_accuracy():.3f}")
for epoch in range(16):
    for idx in torch.randperm(len(x)).split(64):
        a, b = encoder(augment(x[idx])), encoder(augment(x[idx]))
        negative = (a - b.roll(1, 0)).pow(2).sum(1)
        loss = (a - b).pow(2).sum(1).mean() + torch.relu(4.0 - negative).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.6f}  1-nn accuracy {nearest_neighbour_accuracy():.3f}")
