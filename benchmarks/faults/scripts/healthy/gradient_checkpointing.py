import argparse

import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from torch.utils.checkpoint import checkpoint


class ResidualMLP(nn.Module):
    def __init__(self, width=64, depth=4):
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width * 2), nn.GELU(), nn.Linear(width * 2, width))
            for _ in range(depth)
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + (checkpoint(block, x, use_reentrant=False) if self.training else block(x))
        return self.head(x)


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
data, target = load_digits(return_X_y=True)
data = torch.tensor((data - data.mean()) / data.std(), dtype=torch.float32)
target = torch.tensor(target)
perm = torch.randperm(len(data))
train, test = perm[:1400], perm[1400:]
model = ResidualMLP()
opt = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
for epoch in range(5):
    model.train()
    for idx in train[torch.randperm(1400)].split(40):
        loss = nn.functional.cross_entropy(model(data[idx]), target[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
    model.eval()
    with torch.no_grad():
        acc = (model(data[test]).argmax(1) == target[test]).float().mean()
    print(epoch, loss.item(), acc.item())
