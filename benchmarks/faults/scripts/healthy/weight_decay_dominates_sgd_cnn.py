"""Fashion images (or digits), a convolutional network, SGD with L2 regularisation."""

import argparse
import gzip
import os

import numpy as np
import torch
import torch.nn as nn


def dataset(n=4000, folder="/usr/share/datasets/fashion-mnist"):
    images = os.path.join(folder, "train-images-idx3-ubyte.gz")
    if not os.path.exists(images):
        from sklearn.datasets import load_digits

        d = load_digits()
        return torch.tensor(d.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(d.target)
    with gzip.open(images) as stream:
        x = np.frombuffer(stream.read()[16 : 16 + 784 * n], np.uint8).reshape(n, 1, 28, 28)
    with gzip.open(os.path.join(folder, "train-labels-idx1-ubyte.gz")) as stream:
        y = np.frombuffer(stream.read()[8 : 8 + n], np.uint8)
    x = torch.tensor(x[:, :, ::2, ::2] / 255.0, dtype=torch.float32)
    return (x - x.mean()) / x.std(), torch.tensor(y.astype(np.int64))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.ReLU()
        )
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.classify = nn.Linear(96, 10)

    def forward(self, x):
        return self.classify(self.pool(self.features(x)).flatten(1))


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.manual_seed(args.seed)
x, y = dataset()
model = Classifier()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
for step in range(300):
    pick = torch.randint(len(x), (32,))
    loss = nn.functional.cross_entropy(model(x[pick]), y[pick])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 49:
        print(f"step {step + 1} loss {loss.item():.4f}")
