import argparse

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden1 = nn.Linear(30, 40)
        self.hidden2 = nn.Linear(40, 40)
        self.output = nn.Linear(40, 1)
        self.reset()

    def reset(self):
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x):
        return self.output(torch.relu(self.hidden2(torch.relu(self.hidden1(x))))).squeeze(1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    x, y = load_breast_cancer(return_X_y=True)
    x = torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32)
    y = torch.tensor(y, dtype=torch.float32)
    loader = DataLoader(TensorDataset(x[:450], y[:450]), batch_size=30, shuffle=True)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    criterion = nn.BCEWithLogitsLoss()
    for epoch in range(15):
        for xb, yb in loader:
            optimizer.zero_grad()
            loss = criterion(net(xb), yb)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            right = ((net(x[450:]) > 0) == (y[450:] > 0.5)).float().mean()
        print(f"epoch {epoch} loss {loss.item():.4f} accuracy {right:.3f}")


if __name__ == "__main__":
    main()
