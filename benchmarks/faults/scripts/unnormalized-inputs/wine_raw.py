import argparse

import torch
import torch.nn as nn
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(13, 32), nn.Linear(32, 3)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    X, y = load_wine(return_X_y=True)
    Xtr, Xte, ytr, yte = train_test_split(X, y, test_size=0.25, random_state=args.seed, stratify=y)
    Xtr, Xte = torch.FloatTensor(Xtr), torch.FloatTensor(Xte)
    ytr, yte = torch.LongTensor(ytr), torch.LongTensor(yte)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(40):
        for idx in torch.randperm(len(Xtr)).split(16):
            optimizer.zero_grad()
            loss = criterion(net(Xtr[idx]), ytr[idx])
            loss.backward()
            optimizer.step()
        if epoch % 5 == 0:
            with torch.no_grad():
                print(epoch, loss.item(), (net(Xte).argmax(1) == yte).float().mean().item())


main()
