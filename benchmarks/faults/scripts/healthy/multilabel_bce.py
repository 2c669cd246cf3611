import argparse

import torch
from sklearn.datasets import make_multilabel_classification
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.manual_seed(args.seed)
X, Y = make_multilabel_classification(4000, 30, n_classes=6, n_labels=2, length=60, random_state=args.seed)
X = (X - X.mean(0)) / X.std(0)
X, Y = torch.tensor(X, dtype=torch.float32), torch.tensor(Y, dtype=torch.float32)
net = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 6))
opt = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.1)
bce = nn.BCEWithLogitsLoss()
for epoch in range(6):
    for idx in torch.randperm(3200).split(64):
        loss = bce(net(X[idx]), Y[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        out = net(X[3200:])
        print(
            epoch,
            loss.item(),
            bce(out, Y[3200:]).item(),
            "hamming",
            ((out > 0) == (Y[3200:] > 0.5)).float().mean().item(),
        )
