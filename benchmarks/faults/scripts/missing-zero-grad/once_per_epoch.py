import argparse

import torch
import torch.nn as nn
from sklearn.datasets import load_diabetes
from torch.utils.data import DataLoader, TensorDataset


def fit(model, loader, optimizer, criterion, epochs):
    for epoch in range(epochs):
        optimizer.zero_grad()
        losses = []
        for x, t in loader:
            loss = criterion(model(x), t)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch} mse {sum(losses) / len(losses):.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    X, t = load_diabetes(return_X_y=True)
    X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
    t = torch.tensor((t - t.mean()) / t.std(), dtype=torch.float32).unsqueeze(1)
    net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    fit(
        net,
        DataLoader(TensorDataset(X, t), 16, shuffle=True),
        torch.optim.SGD(net.parameters(), lr=0.05),
        nn.MSELoss(),
        12,
    )
