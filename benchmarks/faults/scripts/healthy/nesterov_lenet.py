import argparse
import gzip
import os

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim


class LeNet(nn.Module):
    def __init__(self, side):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 3, padding=1)
        self.fc1 = nn.Linear(16 * (side // 4) ** 2, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
path = "/usr/share/datasets/fashion-mnist"
if os.path.exists(path):
    x = np.frombuffer(gzip.open(path + "/train-images-idx3-ubyte.gz").read(), np.uint8, offset=16).reshape(
        -1, 1, 28, 28
    )[:7000]
    y = np.frombuffer(gzip.open(path + "/train-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)[:7000]
    x = (x / 255.0 - 0.286) / 0.353
else:
    from sklearn.datasets import load_digits

    d = load_digits()
    x, y = (d.images[:, None] / 16.0 - 0.3) / 0.38, d.target
x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y.astype(np.int64))
n = len(x) - 1000 if len(x) > 3000 else 1400
net = LeNet(x.shape[-1])
optimizer = optim.SGD(net.parameters(), lr=0.02, momentum=0.9, nesterov=True)
running = 0.0
for epoch in range(3):
    for i, idx in enumerate(torch.randperm(n).split(50)):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x[idx]), y[idx])
        loss.backward()
        optimizer.step()
        running = 0.95 * running + 0.05 * loss.item()
        if i % 50 == 49:
            print(f"[{epoch + 1}, {i + 1}] loss: {running:.3f}")
    with torch.no_grad():
        print("accuracy", (net(x[n:]).argmax(1) == y[n:]).float().mean().item())
