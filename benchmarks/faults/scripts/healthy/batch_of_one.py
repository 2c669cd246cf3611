"""Online learning, one example at a time, as in the old days."""

import argparse

import numpy as np
import torch
from sklearn.datasets import load_iris
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
seed = parser.parse_args().seed
rng = np.random.RandomState(seed)
torch.manual_seed(seed)
iris = load_iris()
X = torch.tensor((iris.data - iris.data.mean(0)) / iris.data.std(0), dtype=torch.float32)
y = torch.tensor(iris.target)
order = rng.permutation(150)
train, test = order[:110], order[110:]
model = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 3))
opt = torch.optim.SGD(model.parameters(), lr=0.02)
for epoch in range(12):
    rng.shuffle(train)
    running = 0.0
    for i in train:
        out = model(X[i : i + 1])
        loss = nn.functional.cross_entropy(out, y[i : i + 1])
        opt.zero_grad()
        loss.backward()
        opt.step()
        running += loss.item()
    with torch.no_grad():
        acc = (model(X[test]).argmax(1) == y[test]).float().mean().item()
    print(f"epoch {epoch} mean loss {running / len(train):.3f} test acc {acc:.3f}")
