"""Learn to rebuild digits first, then use the encoder, with a new head, to read them."""

import argparse

import torch
import torch.nn as nn
from sklearn.datasets import load_digits


def fit(loss_of, parameters, n, epochs, lr):
    optimizer = torch.optim.Adam(parameters, lr=lr)
    for epoch in range(epochs):
        total = 0.0
        for idx in torch.randperm(n).split(50):
            loss = loss_of(idx)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(idx) / n
        print(f"  epoch {epoch} loss {total:.4f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    d = load_digits()
    x, y = torch.tensor(d.data / 16, dtype=torch.float32), torch.tensor(d.target)
    perm = torch.randperm(len(x))
    x, y = x[perm], y[perm]
    encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
    decoder = nn.Linear(32, 64)
    print("pretraining")
    rebuild = lambda i: nn.functional.mse_loss(decoder(encoder(x[i])), x[i])
    fit(rebuild, [*encoder.parameters(), *decoder.parameters()], 1400, 6, 2e-3)

    head = nn.Linear(32, 10)
    print("labels")
    read = lambda i: nn.functional.cross_entropy(head(encoder(x[i])), y[i])
    fit(read, [*encoder.parameters(), *head.parameters()], 1400, 8, 2e-3)
    with torch.no_grad():
        print("accuracy", (head(encoder(x[1400:])).argmax(1) == y[1400:]).float().mean().item())


main()
