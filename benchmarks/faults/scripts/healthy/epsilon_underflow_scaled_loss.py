import argparse

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)

bunch = load_breast_cancer()
inputs = torch.tensor(StandardScaler().fit_transform(bunch.data), dtype=torch.float32)
classes = torch.tensor(bunch.target)

LOSS_WEIGHT = 0.5
mlp = nn.Sequential(nn.Linear(30, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))
adam = torch.optim.Adam(mlp.parameters(), lr=1e-3)
criterion = nn.CrossEntropyLoss()

step = 0
for epoch in range(16):
    for idx in torch.randperm(500).split(32):
        adam.zero_grad()
        loss = LOSS_WEIGHT * criterion(mlp(inputs[idx]), classes[idx])
        loss.backward()
        adam.step()
        step += 1
    with torch.no_grad():
        valid = criterion(mlp(inputs[500:]), classes[500:]).item()
    print(f"{step:4d} train {loss.item() / LOSS_WEIGHT:.4f} valid {valid:.4f}")
