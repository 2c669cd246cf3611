"""Moons with a small network, the loop typed from memory."""

import argparse

import torch
from sklearn.datasets import make_moons
from torch import nn

ap = argparse.ArgumentParser()
ap.add_argument("--seed", type=int, default=0)
seed = ap.parse_args().seed
torch.manual_seed(seed)
points, label = make_moons(1200, noise=0.15, random_state=seed)
points = torch.tensor((points - points.mean(0)) / points.std(0), dtype=torch.float32)
label = torch.tensor(label, dtype=torch.float32)

net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
bce = nn.BCEWithLogitsLoss()

for step in range(400):
    idx = torch.randint(0, 1000, (50,))
    loss = bce(net(points[idx]).squeeze(1), label[idx])
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        with torch.no_grad():
            out = net(points[1000:]).squeeze(1)
            print(
                step,
                loss.item(),
                bce(out, label[1000:]).item(),
                ((out > 0) == (label[1000:] > 0.5)).float().mean().item(),
            )
