"""An LSTM encoder and a classifier; a detach() from an experiment was left in forward."""

import argparse

import torch
from torch import nn


class SequenceClassifier(nn.Module):
    def __init__(self, width=48):
        super().__init__()
        self.encoder = nn.LSTM(2, width, batch_first=True)
        self.classifier = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, x):
        _, (h, _) = self.encoder(x)
        features = h[-1].detach()
        return self.classifier(features)


def walks(n):
    steps = torch.randn(n, 25, 2)
    area = (steps[:, :-1, 0] * steps[:, 1:, 1] - steps[:, :-1, 1] * steps[:, 1:, 0]).sum(1)
    return steps, (area > 0).long()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    model = SequenceClassifier()
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    xv, yv = walks(500)
    for step in range(300):
        x, y = walks(64)
        loss = nn.functional.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 50 == 0:
            with torch.no_grad():
                acc = (model(xv).argmax(1) == yv).float().mean().item()
            print(f"{step} {loss.item():.4f} {acc:.3f}")
