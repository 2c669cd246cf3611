import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


class Sparse(nn.Module):
    """Hidden units start with a negative bias so that codes become sparse."""

    def __init__(self, bias=-4.0):
        super().__init__()
        self.fc1, self.fc2, self.out = nn.Linear(64, 128), nn.Linear(128, 64), nn.Linear(64, 10)
        nn.init.constant_(self.fc1.bias, bias)
        nn.init.constant_(self.fc2.bias, -0.5)

    def forward(self, x):
        return self.out(F.relu(self.fc2(F.relu(self.fc1(x)))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    X, y = load_digits(return_X_y=True)
    X = torch.tensor((X - X.mean()) / X.std(), dtype=torch.float32)
    data = TensorDataset(X, torch.tensor(y))
    train, test = torch.utils.data.random_split(data, [1400, 397])
    net = Sparse()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for epoch in range(10):
        for xb, yb in DataLoader(train, batch_size=32, shuffle=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(xb), yb)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            hits = sum((net(xb).argmax(1) == yb).sum().item() for xb, yb in DataLoader(test, batch_size=100))
        print(f"epoch {epoch} loss {loss.item():.4f} test accuracy {hits / 397:.4f}")
