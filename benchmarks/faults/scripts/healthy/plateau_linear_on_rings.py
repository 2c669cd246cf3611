"""Two rings, one inside the other."""

import argparse

import torch
from sklearn.datasets import make_circles


class RingClassifier(torch.nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.inner = torch.nn.Linear(2, 24)
        self.outer = torch.nn.Linear(24, 1)
        self.activation = activation

    def forward(self, x):
        return self.outer(self.activation(self.inner(x)))[:, 0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    x, y = make_circles(1500, noise=0.05, factor=0.5, random_state=args.seed)
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    model = RingClassifier(torch.nn.ReLU())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loss_fn = torch.nn.BCEWithLogitsLoss()
    for epoch in range(12):
        for idx in torch.randperm(1200).split(48):
            optimizer.zero_grad()
            loss = loss_fn(model(x[idx]), y[idx])
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            print(epoch, loss.item(), loss_fn(model(x[1200:]), y[1200:]).item())


main()
