"""Breast cancer data, a perceptron, cosine annealing."""

import argparse

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import scale
from torch import nn

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--seed", default=0, type=int)
seed = parser.parse_args().seed
torch.manual_seed(seed)

data = load_breast_cancer()
x = torch.tensor(scale(data.data), dtype=torch.float32)
y = torch.tensor(data.target, dtype=torch.float32)
perm = torch.randperm(len(x))
train, test = perm[:450], perm[450:]

EPOCHS = 30
model = nn.Sequential(nn.Linear(30, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
bce = nn.BCEWithLogitsLoss()

for epoch in range(EPOCHS):
    model.train()
    shuffled = train[torch.randperm(len(train))]
    for chunk in shuffled.chunk(14):
        optimizer.zero_grad()
        loss = bce(model(x[chunk]).squeeze(1), y[chunk])
        loss.backward()
        optimizer.step()
    scheduler.step()
    model.eval()
    with torch.no_grad():
        out = model(x[test]).squeeze(1)
    print(f"{epoch}: {loss.item():.4f} / {bce(out, y[test]).item():.4f}")
