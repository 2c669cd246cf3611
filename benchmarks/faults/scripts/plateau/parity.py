"""Can a perceptron learn the parity of some hidden bits?"""

import argparse

import torch
from torch import nn


def batch(size, bits, relevant):
    x = torch.randint(0, 2, (size, bits)).float()
    y = x[:, :relevant].sum(1) % 2
    return x * 2 - 1, y


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--relevant", type=int, default=12)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(600):
        x, y = batch(128, 40, args.relevant)
        logit = model(x).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(logit, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(step, loss.item(), ((logit > 0) == (y > 0.5)).float().mean().item())


main()
