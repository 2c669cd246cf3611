import argparse

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=0.01)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    bunch = load_breast_cancer()
    data = TensorDataset(torch.tensor(bunch.data).float(), torch.tensor(bunch.target).float())
    train, test = random_split(data, [450, 119])
    model = nn.Sequential(nn.Linear(30, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 1))
    opt = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    bce = nn.BCEWithLogitsLoss()
    for epoch in range(15):
        model.train()
        for xb, yb in DataLoader(train, batch_size=18, shuffle=True):
            opt.zero_grad()
            loss = bce(model(xb).squeeze(1), yb)
            loss.backward()
            opt.step()
        model.eval()
        with torch.no_grad():
            hits = sum(((model(xb).squeeze(1) > 0) == (yb > 0.5)).sum().item() for xb, yb in DataLoader(test, 119))
        print(f"epoch {epoch} loss {loss.item():.4f} accuracy {hits / 119:.3f}")
