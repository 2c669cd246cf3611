"""Fits a softmax model to empirical class frequencies by Kullback-Leibler divergence."""

import argparse

import torch
import torch.nn as nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)

groups, classes = 300, 6
features = torch.randn(groups, 12)
truth = torch.softmax(features @ torch.randn(12, classes), dim=1)
counts = torch.stack([torch.multinomial(t, 20, replacement=True).bincount(minlength=classes) for t in truth])
frequency = counts.float() / 20

model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, classes))
opt = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(25):
    for idx in torch.randperm(groups).split(32):
        p = frequency[idx]
        q = torch.softmax(model(features[idx]), dim=1)
        loss = (p * (p.log() - q.log())).sum(1).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(epoch, loss.item())
