"""A bottleneck autoencoder for digits."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
seed = parser.parse_args().seed
torch.manual_seed(seed)

x = torch.tensor(load_digits().data, dtype=torch.float32) / 16
x = x - x.mean(0)
batch_size, epochs = 32, 8
model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 8), nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 64))
optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
for epoch in range(epochs):
    for part in torch.randperm(len(x)).split(batch_size):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x[part]), x[part])
        loss.backward()
        optimizer.step()
    if epoch % 8 == 0:
        print(epoch, loss.item())
