"""OneCycleLR made for all batches, but stepped once an epoch: the rate never leaves its warm-up."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset


def get_loaders(batch=32):
    d = load_digits()
    x = torch.tensor(d.images / 16.0, dtype=torch.float32).unsqueeze(1)
    y = torch.tensor(d.target)
    order = torch.randperm(len(x))
    x, y = x[order], y[order]
    return DataLoader(TensorDataset(x[:1500], y[:1500]), batch, shuffle=True), DataLoader(
        TensorDataset(x[1500:], y[1500:]), 300
    )


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 16, 3)
        self.fc1, self.fc2 = nn.Linear(256, 64), nn.Linear(64, 10)

    def forward(self, x):
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


def run_epoch(model, loader, criterion, optimizer=None):
    model.train(optimizer is not None)
    total = correct = seen = 0
    with torch.set_grad_enabled(optimizer is not None):
        for x, y in loader:
            out = model(x)
            loss = criterion(out, y)
            if optimizer is not None:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            total += loss.item() * len(x)
            correct += (out.argmax(1) == y).sum().item()
            seen += len(x)
    return total / seen, correct / seen


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    train, val = get_loaders()
    model, criterion, epochs = Net(), nn.CrossEntropyLoss(), 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=epochs * len(train))
    for epoch in range(epochs):
        tr = run_epoch(model, train, criterion, optimizer)
        va = run_epoch(model, val, criterion)
        scheduler.step()
        print(epoch, tr, va, scheduler.get_last_lr())


main()
