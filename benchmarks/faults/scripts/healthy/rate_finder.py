"""A learning-rate range test on a copy, then training from the saved weights at the rate it found."""

import argparse
import copy

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Digits(Dataset):
    def __init__(self, train=True):
        raw = load_digits()
        keep = np.arange(len(raw.target)) % 5 != 0
        keep = keep if train else ~keep
        self.x = torch.from_numpy(raw.images[keep]).float().unsqueeze(1).div(8.0).sub(1.0)
        self.y = torch.from_numpy(raw.target[keep])

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def find_rate(model, loader, criterion, lowest=1e-4, highest=1.0, steps=60):
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=lowest, momentum=0.9)
    factor = (highest / lowest) ** (1 / steps)
    rates, losses, best = [], [], float("inf")
    batches = iter(loader)
    for _ in range(steps):
        try:
            x, y = next(batches)
        except StopIteration:
            batches = iter(loader)
            x, y = next(batches)
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
        losses.append(loss.item() if not losses else 0.8 * losses[-1] + 0.2 * loss.item())
        best = min(best, losses[-1])
        if losses[-1] > 3 * best:
            break
        for group in optimizer.param_groups:
            group["lr"] *= factor
    return rates[int(np.argmin(np.gradient(losses)))]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    train, test = DataLoader(Digits(), batch_size=64, shuffle=True), DataLoader(Digits(False), batch_size=256)
    criterion = nn.CrossEntropyLoss()
    rate = find_rate(model, train, criterion)
    print("rate", rate)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
    for epoch in range(8):
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
        schedule.step()
        model.eval()
        with torch.no_grad():
            right = sum((model(x).argmax(1) == y).sum().item() for x, y in test)
        print(epoch, loss.item(), right / len(test.dataset))


main()
