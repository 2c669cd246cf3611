import argparse
import gzip
import os

import numpy as np
import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
base = "/usr/share/datasets/fashion-mnist/"
if os.path.isdir(base):
    x = np.frombuffer(gzip.open(base + "train-images-idx3-ubyte.gz").read(), np.uint8, offset=16).reshape(-1, 784)[
        :6000
    ]
    y = np.frombuffer(gzip.open(base + "train-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)[:6000]
else:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = x * 16
x, y = torch.tensor(x.copy(), dtype=torch.float32), torch.tensor(y.astype("int64"))
n = int(0.85 * len(x))
model = nn.Sequential(nn.Linear(x.shape[1], 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
opt = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
for epoch in range(4):
    for idx in torch.randperm(n).split(64):
        loss = nn.functional.cross_entropy(model(x[idx]), y[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        print(epoch, loss.item(), (model(x[n:]).argmax(1) == y[n:]).float().mean().item())
