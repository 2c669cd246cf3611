import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--lr", type=float, default=0.3)
args = parser.parse_args()
torch.manual_seed(args.seed)

x, y = load_digits(return_X_y=True)
x = torch.tensor(x, dtype=torch.float32) / 16
x = (x - x.mean()) / x.std()
y = torch.tensor(y)

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
loss_fn = nn.CrossEntropyLoss()

for epoch in range(8):
    for idx in torch.randperm(1500).split(32):
        optimizer.zero_grad()
        loss = loss_fn(model(x[idx]), y[idx])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        test = model(x[1500:])
        print(f"epoch {epoch}: {loss.item():.3f}, test accuracy {(test.argmax(1) == y[1500:]).float().mean():.3f}")
