"""An autoencoder of digits; Adam with an L2 penalty that is far too strong."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
pixels = torch.tensor(load_digits().data, dtype=torch.float32) / 16
loader = DataLoader(pixels, batch_size=40, shuffle=True)
net = nn.Sequential(nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 12), nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 64))
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3, weight_decay=0.3)
for epoch in range(8):
    for batch in loader:
        loss = (net(batch) - batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
