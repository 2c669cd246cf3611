"""Wine classes with Adam."""

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler


class Wine(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(13, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3)
        )

    def forward(self, x):
        return self.layers(x)


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
features, target = load_wine(return_X_y=True)
features = torch.tensor(StandardScaler().fit_transform(features), dtype=torch.float32)
target = torch.tensor(target)
noisy = torch.where(torch.rand(len(target)) < 0.15, torch.randint(3, target.shape), target)
model = Wine()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
batch_size = 1
for step in range(600):
    rows = torch.randint(len(features), (batch_size,))
    loss = F.cross_entropy(model(features[rows]), noisy[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 99:
        with torch.no_grad():
            print(step + 1, F.cross_entropy(model(features), target).item())
