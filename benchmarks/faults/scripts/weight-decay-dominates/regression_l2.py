import argparse

import numpy as np
import torch
from sklearn.datasets import make_friedman1
from torch import nn


class Regressor(nn.Module):
    def __init__(self, n_features, hidden):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(n_features, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU())
        self.head = nn.Linear(hidden, 1)

    def forward(self, x):
        return self.head(self.body(x)).squeeze(-1)


def fit(model, x, y, epochs, lr, l2):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=l2)
    history = []
    for epoch in range(epochs):
        losses = []
        for index in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            loss = ((model(x[index]) - y[index]) ** 2).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        history.append(np.mean(losses))
        if epoch % 5 == 4:
            print(f"epoch {epoch + 1:3d}  mse {history[-1]:.4f}")
    return history


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    X, Y = make_friedman1(n_samples=1000, noise=0.5, random_state=args.seed)
    X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
    Y = torch.tensor((Y - Y.mean()) / Y.std(), dtype=torch.float32)
    fit(Regressor(10, 48), X, Y, epochs=15, lr=5e-3, l2=3.0)
