"""Autoencoder with sigmoid hidden units on small images."""

import argparse
import gzip
import pathlib

import numpy as np
import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.manual_seed(args.seed)


def images():
    path = pathlib.Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")
    if path.exists():
        raw = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16).reshape(-1, 28, 28)[:3000]
        return torch.from_numpy(raw[:, ::2, ::2].copy()).float().flatten(1) / 255
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().data).float() / 16


x = images()
n = x.shape[1]
encoder = nn.Sequential(nn.Linear(n, 128), nn.Sigmoid(), nn.Linear(128, 32), nn.Sigmoid())
decoder = nn.Sequential(nn.Linear(32, 128), nn.Sigmoid(), nn.Linear(128, n))
for layer in (encoder[0], encoder[2], decoder[0]):
    nn.init.normal_(layer.weight, std=3.0)
model = nn.Sequential(encoder, decoder)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for step in range(300):
    batch = x[torch.randint(len(x), (64,))]
    loss = nn.functional.mse_loss(model(batch), batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 60 == 0:
        print(step, loss.item())
