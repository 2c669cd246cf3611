import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn


def init(module):
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        nn.init.constant_(module.bias, -1.0)


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.manual_seed(args.seed)
d = load_digits()
x = torch.tensor(d.images / 16.0, dtype=torch.float32).unsqueeze(1)
x = (x - x.mean()) / x.std()
y = torch.tensor(d.target)
perm = torch.randperm(len(x))
x, y = x[perm], y[perm]
cnn = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(32, 32, 3, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(512, 10),
)
cnn.apply(init)
optimizer = torch.optim.SGD(cnn.parameters(), lr=0.05, momentum=0.9)
for epoch in range(6):
    cnn.train()
    for idx in torch.randperm(1400).split(50):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(cnn(x[idx]), y[idx])
        loss.backward()
        optimizer.step()
    cnn.eval()
    with torch.no_grad():
        print(epoch, loss.item(), "val acc", (cnn(x[1400:]).argmax(1) == y[1400:]).float().mean().item())
