"""Digits, a perceptron with dropout, trained by a small Trainer class."""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

GRADIENT_CLIP = 0.01


class Trainer:
    def __init__(self, model, train_loader, valid_loader, lr):
        self.model = model
        self.train_loader = train_loader
        self.valid_loader = valid_loader
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr, nesterov=True, momentum=0.9)
        self.loss = nn.CrossEntropyLoss()

    def train_epoch(self):
        self.model.train()
        total = 0.0
        for x, y in self.train_loader:
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.loss(self.model(x), y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_CLIP)
            self.optimizer.step()
            total += loss.item() * len(x)
        return total / len(self.train_loader.dataset)

    @torch.no_grad()
    def validate(self):
        self.model.eval()
        right = sum((self.model(x).argmax(1) == y).sum().item() for x, y in self.valid_loader)
        return right / len(self.valid_loader.dataset)


def main(seed):
    torch.manual_seed(seed)
    digits = load_digits()
    x = torch.tensor(digits.data / 16.0, dtype=torch.float32)
    data = TensorDataset((x - x.mean()) / x.std(), torch.tensor(digits.target))
    train, valid = random_split(data, [1500, len(data) - 1500])
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    trainer = Trainer(model, DataLoader(train, batch_size=32, shuffle=True), DataLoader(valid, batch_size=256), lr=0.02)
    for epoch in range(10):
        loss = trainer.train_epoch()
        print(f"epoch {epoch}: train loss {loss:.4f}  valid accuracy {trainer.validate():.4f}")


if __name__ == "__main__":
    main(int(sys.argv[sys.argv.index("--seed") + 1]) if "--seed" in sys.argv else 0)
