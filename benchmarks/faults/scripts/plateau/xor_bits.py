import argparse

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
seed = parser.parse_args().seed
torch.manual_seed(seed)
rng = np.random.default_rng(seed)

points = rng.uniform(-1, 1, (2000, 2)).astype(np.float32)
labels = ((points[:, 0] > 0) ^ (points[:, 1] > 0)).astype(np.int64)
loader = DataLoader(TensorDataset(torch.from_numpy(points), torch.from_numpy(labels)), batch_size=50, shuffle=True)

model = nn.Sequential(nn.Linear(2, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
for epoch in range(10):
    hits = 0
    for x, y in loader:
        scores = model(x)
        loss = nn.functional.cross_entropy(scores, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        hits += (scores.argmax(1) == y).sum().item()
    print("epoch", epoch, "accuracy", hits / 2000)
