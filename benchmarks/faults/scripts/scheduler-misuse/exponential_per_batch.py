import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

ap = argparse.ArgumentParser()
ap.add_argument("--seed", type=int, default=0)
seed = ap.parse_args().seed
torch.manual_seed(seed)
rng = np.random.default_rng(seed)

X, y = load_digits(return_X_y=True)
X = (X / 16.0 - 0.3).astype(np.float32) * 2.6
images = torch.from_numpy(X).reshape(-1, 1, 8, 8)
labels = torch.from_numpy(y)

cnn = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(32 * 16, 10),
)
opt = torch.optim.SGD(cnn.parameters(), lr=0.02, momentum=0.9)
scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, gamma=0.9)
loss_fn = nn.CrossEntropyLoss()

for epoch in range(8):
    order = rng.permutation(1500)
    running = 0.0
    for i in range(0, 1500, 50):
        idx = order[i : i + 50]
        opt.zero_grad()
        loss = loss_fn(cnn(images[idx]), labels[idx])
        loss.backward()
        opt.step()
        scheduler.step()
        running += loss.item()
    with torch.no_grad():
        acc = (cnn(images[1500:]).argmax(1) == labels[1500:]).float().mean().item()
    print(f"[{epoch}] loss={running / 30:.4f} test={acc:.3f} lr={scheduler.get_last_lr()[0]:.2e}")
