import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
config = parser.parse_args()
torch.manual_seed(config.seed)
digits = load_digits()
X = torch.tensor(digits.images[:, None] / 16.0 - 0.305, dtype=torch.float32) / 0.376
Y = torch.tensor(digits.target)
order = torch.randperm(len(X))
tr, te = order[:1450], order[1450:]

cnn = nn.Sequential(
    nn.Conv2d(1, 12, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(12, 24, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(24 * 16, 10),
)
optimizer = torch.optim.SGD(cnn.parameters(), lr=0.01, momentum=0.9)
scheduler = torch.optim.lr_scheduler.CyclicLR(
    optimizer, base_lr=0.005, max_lr=0.06, step_size_up=40, mode="triangular2"
)
for epoch in range(8):
    for i in range(0, len(tr), 50):
        rows = tr[torch.randint(len(tr), (50,))]
        loss = nn.functional.cross_entropy(cnn(X[rows]), Y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    cnn.eval()
    with torch.no_grad():
        acc = (cnn(X[te]).argmax(1) == Y[te]).float().mean().item()
    cnn.train()
    print(epoch, loss.item(), acc, scheduler.get_last_lr()[0])
