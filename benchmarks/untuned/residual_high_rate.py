"""A small residual net with batch normalisation on digits; the rate of heavy ball is far too high."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--lr", type=float, default=3.0)
options = parser.parse_args()
torch.manual_seed(options.seed)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
loader = DataLoader(TensorDataset(images, torch.tensor(digits.target)), batch_size=48, shuffle=True)
model = nn.Sequential(
    nn.Conv2d(1, 12, 3, padding=1), Block(12), nn.MaxPool2d(2), Block(12), nn.Flatten(), nn.Linear(12 * 16, 10)
)
optimizer = torch.optim.SGD(model.parameters(), lr=options.lr, momentum=0.9)
for epoch in range(6):
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
