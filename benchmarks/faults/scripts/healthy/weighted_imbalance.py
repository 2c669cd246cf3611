"""Rare positives, and the loss weighted for it."""

import argparse

import torch
from sklearn.datasets import make_classification
from sklearn.metrics import balanced_accuracy_score
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
seed = parser.parse_args().seed
torch.manual_seed(seed)
x, y = make_classification(6000, 20, n_informative=8, weights=[0.93], class_sep=1.6, flip_y=0.0, random_state=seed)
x = (x - x.mean(0)) / x.std(0)
x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
train, test = slice(0, 4500), slice(4500, None)
counts = torch.bincount(y[train]).float()
weight = counts.sum() / (2 * counts)
print("class weights", weight.tolist())

model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 2))
opt = torch.optim.Adam(model.parameters(), lr=2e-3)
loss_fn = nn.CrossEntropyLoss(weight=weight)
for epoch in range(8):
    for idx in torch.randperm(4500).split(128):
        loss = loss_fn(model(x[train][idx]), y[train][idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        pred = model(x[test]).argmax(1).numpy()
    print(epoch, round(loss.item(), 4), "balanced accuracy", round(balanced_accuracy_score(y[test].numpy(), pred), 4))
