import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
x = torch.tensor(load_digits().data / 16, dtype=torch.float32)
x = x[torch.randperm(len(x))]
sizes = [64, 56, 48, 40, 24, 40, 48, 56, 64]
stack = []
for i, o in zip(sizes, sizes[1:]):
    stack += [nn.Linear(i, o), nn.Sigmoid()]
autoencoder = nn.Sequential(*stack)
optimizer = torch.optim.SGD(autoencoder.parameters(), lr=1.0, momentum=0.9)
for epoch in range(14):
    for idx in torch.randperm(1500).split(50):
        out = autoencoder(x[idx])
        loss = nn.functional.mse_loss(out, x[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        test = nn.functional.mse_loss(autoencoder(x[1500:]), x[1500:]).item()
        mean = nn.functional.mse_loss(x[:1500].mean(0).expand(297, -1), x[1500:]).item()
    print(f"epoch {epoch} train {loss.item():.4f} test {test:.4f} (the mean image alone: {mean:.4f})")
