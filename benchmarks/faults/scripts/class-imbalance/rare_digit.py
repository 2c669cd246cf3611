"""Spot the digit 8 in a stream of digits where it hardly ever comes."""

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class SmallCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 32, 3, padding=1)
        self.fc = nn.Linear(32 * 16, 2)

    def forward(self, x):
        return self.fc(F.max_pool2d(F.relu(self.conv(x)), 2).flatten(1))


def make_split(seed):
    rng = np.random.RandomState(seed)
    digits = load_digits()
    images = digits.images / 16 + rng.normal(0, 0.35, digits.images.shape)
    eight = (digits.target == 8).astype(int)
    order = rng.permutation(len(eight))
    test, train = order[:500], order[500:]
    keep = [i for i in train if not eight[i] or rng.rand() < 0.3]
    x, y = torch.tensor(images, dtype=torch.float32).unsqueeze(1), torch.tensor(eight)
    return TensorDataset(x[keep], y[keep]), TensorDataset(x[test], y[test])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    train, test = make_split(args.seed)
    loader = DataLoader(train, batch_size=32, shuffle=True)
    model = SmallCNN()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for epoch in range(20):
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        x, y = test.tensors
        with torch.no_grad():
            predicted = model(x).argmax(1)
        print(
            f"epoch {epoch + 1}: accuracy {(predicted == y).float().mean():.3f},"
            f" eights found {(predicted[y == 1] == 1).float().mean():.3f}"
        )
