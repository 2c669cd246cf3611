import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
d = load_digits()
X = torch.tensor(d.data / 16, dtype=torch.float32)
X = (X - X.mean()) / X.std()
Y = torch.tensor(d.target)
p = torch.randperm(len(X))
X, Y = X[p], Y[p]
model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
averaged = AveragedModel(model)
opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
swa = SWALR(opt, swa_lr=0.03, anneal_epochs=2)
for epoch in range(12):
    for idx in torch.randperm(1400).split(56):
        loss = nn.functional.cross_entropy(model(X[idx]), Y[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
    if epoch >= 6:
        averaged.update_parameters(model)
        swa.step()
    with torch.no_grad():
        acc = [(m(X[1400:]).argmax(1) == Y[1400:]).float().mean().item() for m in (model, averaged)]
    print(epoch, round(loss.item(), 4), acc)
