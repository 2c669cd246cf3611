import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

ACCUMULATE = 4


def build():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 10),
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    raw = load_digits()
    images = (torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) - 4.9) / 6.0
    train, val = random_split(TensorDataset(images, torch.tensor(raw.target)), [1400, 397])
    loader = DataLoader(train, batch_size=8, shuffle=True)
    model, loss_fn = build(), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(5):
        model.train()
        optimizer.zero_grad()
        for i, (images, target) in enumerate(loader):
            loss = loss_fn(model(images), target) / ACCUMULATE
            loss.backward()
            if (i + 1) % ACCUMULATE == 0:
                optimizer.step()
                optimizer.zero_grad()
        model.eval()
        correct = 0
        with torch.no_grad():
            for images, target in DataLoader(val, batch_size=128):
                correct += (model(images).argmax(1) == target).sum().item()
        print(f"epoch {epoch}: loss {loss.item() * ACCUMULATE:.4f}, val acc {correct / len(val):.4f}")


main()
