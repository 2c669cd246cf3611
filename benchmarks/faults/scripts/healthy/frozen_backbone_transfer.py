"""Pretrain on the first five digits, freeze the features, train a new head for all ten."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("--seed", type=int, default=0)
seed = p.parse_args().seed
torch.manual_seed(seed)

digits = load_digits()
images = torch.tensor(digits.images / 8.0 - 1.0, dtype=torch.float32).unsqueeze(1)
labels = torch.tensor(digits.target)
perm = torch.randperm(len(images))
images, labels = images[perm], labels[perm]
train_x, train_y, test_x, test_y = images[:1400], labels[:1400], images[1400:], labels[1400:]


class Features(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )

    def forward(self, x):
        return self.net(x)


def fit(model, params, x, y, epochs, lr):
    opt = torch.optim.Adam(params, lr=lr)
    for epoch in range(epochs):
        order = torch.randperm(len(x))
        for i in range(0, len(x), 64):
            idx = order[i : i + 64]
            loss = nn.functional.cross_entropy(model(x[idx]), y[idx])
            opt.zero_grad()
            loss.backward()
            opt.step()
        print(f"epoch {epoch} loss {loss.item():.4f}")


backbone = Features()
small = train_y < 5
pretraining = nn.Sequential(backbone, nn.Linear(512, 5))
fit(pretraining, pretraining.parameters(), train_x[small], train_y[small], 4, 1e-3)

for param in backbone.parameters():
    param.requires_grad = False
classifier = nn.Sequential(backbone, nn.Linear(512, 10))
fit(classifier, classifier[1].parameters(), train_x, train_y, 8, 3e-3)
with torch.no_grad():
    print("test accuracy", (classifier(test_x).argmax(1) == test_y).float().mean().item())
