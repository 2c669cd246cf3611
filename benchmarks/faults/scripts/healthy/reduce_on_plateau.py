import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


def evaluate(model, loader, criterion):
    model.eval()
    total, hits, n = 0.0, 0, 0
    with torch.no_grad():
        for x, y in loader:
            out = model(x)
            total += criterion(out, y).item() * len(y)
            hits += (out.argmax(1) == y).sum().item()
            n += len(y)
    return total / n, hits / n


def train(args):
    torch.manual_seed(args.seed)
    X, y = load_digits(return_X_y=True)
    X = torch.tensor((X - X.mean()) / X.std(), dtype=torch.float32)
    train_set, val_set = random_split(TensorDataset(X, torch.tensor(y)), [1400, 397])
    train_loader = DataLoader(train_set, batch_size=args.batch_size, shuffle=True)
    val_loader = DataLoader(val_set, batch_size=256)
    model = nn.Sequential(nn.Linear(64, 80), nn.LeakyReLU(), nn.Dropout(0.2), nn.Linear(80, 10))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=1e-3)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.3, patience=2)
    for epoch in range(args.epochs):
        model.train()
        for x, target in train_loader:
            optimizer.zero_grad()
            loss = criterion(model(x), target)
            loss.backward()
            optimizer.step()
        val, acc = evaluate(model, val_loader, criterion)
        scheduler.step(val)
        print(
            f"Epoch {epoch}: loss={loss.item():.4f} val={val:.4f} acc={acc:.3f} lr={optimizer.param_groups[0]['lr']:.1e}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=48)
    train(parser.parse_args())
