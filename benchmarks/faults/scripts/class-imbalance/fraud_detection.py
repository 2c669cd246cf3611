"""Fraud among card payments, with a little recurrent network over each customer's last payments."""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def payments(count, seed):
    g = torch.Generator().manual_seed(seed)
    amounts = torch.randn(count, 12, 3, generator=g)
    fraud = torch.rand(count, generator=g) < 0.03
    burst = torch.randn(count, 4, 3, generator=g) * 0.5 + 0.45
    amounts[:, 8:] = torch.where(fraud[:, None, None], amounts[:, 8:] * 0.7 + burst, amounts[:, 8:])
    return amounts, fraud.long()


class Scorer(nn.Module):
    def __init__(self, width=48):
        super().__init__()
        self.gru = nn.GRU(3, width, batch_first=True)
        self.out = nn.Linear(width, 2)

    def forward(self, x):
        return self.out(self.gru(x)[0][:, -1])


class Experiment:
    def __init__(self, seed):
        torch.manual_seed(seed)
        self.train = DataLoader(TensorDataset(*payments(5000, seed)), batch_size=100, shuffle=True)
        self.test = payments(2000, seed + 1000)
        self.model = Scorer()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.criterion = nn.CrossEntropyLoss()

    def run(self, epochs=6):
        for epoch in range(epochs):
            self.model.train()
            for x, y in self.train:
                self.optimizer.zero_grad()
                loss = self.criterion(self.model(x), y)
                loss.backward()
                self.optimizer.step()
            self.report(epoch)

    @torch.no_grad()
    def report(self, epoch):
        self.model.eval()
        x, y = self.test
        guess = self.model(x).argmax(1)
        print(f"{epoch}: accuracy {(guess == y).float().mean():.4f}, caught {(guess[y == 1]).float().mean():.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    Experiment(parser.parse_args().seed).run()
