"""Find rare sensor faults among normal readings."""

import argparse

import numpy as np
import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
rng = np.random.RandomState(args.seed)
torch.manual_seed(args.seed)

N = 8000
faulty = rng.rand(N) < 0.03
signal = rng.normal(0, 1, (N, 20)).astype("float32")
signal[faulty] += rng.normal(0.9, 0.3, (faulty.sum(), 20)) * (rng.rand(faulty.sum(), 20) < 0.5)
x, y = torch.tensor(signal), torch.tensor(faulty.astype("float32"))
x_train, y_train, x_test, y_test = x[:6000], y[:6000], x[6000:], y[6000:]


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))

    def forward(self, x):
        return self.layers(x).squeeze(-1)


model = Detector()
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
criterion = nn.BCEWithLogitsLoss()
for epoch in range(12):
    for idx in torch.randperm(6000).split(128):
        optimizer.zero_grad()
        loss = criterion(model(x_train[idx]), y_train[idx])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        flagged = model(x_test) > 0
    accuracy = (flagged == (y_test > 0.5)).float().mean()
    recall = flagged[y_test > 0.5].float().mean()
    print(f"epoch {epoch}  accuracy {accuracy:.4f}  recall of faults {recall:.3f}")
