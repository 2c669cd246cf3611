"""Fashion images, SGD with momentum, linear warm-up and cosine decay."""

import gzip
import math
import os
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

SEED = int(sys.argv[sys.argv.index("--seed") + 1]) if "--seed" in sys.argv else 0
ROOT = "/usr/share/datasets/fashion-mnist"


def load(n_train=8000, n_test=1500):
    if not os.path.isdir(ROOT):
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x = torch.tensor(x / 16.0, dtype=torch.float32).view(-1, 1, 8, 8)
        x = F.interpolate(x, size=(28, 28))
        y = torch.tensor(y)
        return x[:1400], y[:1400], x[1400:], y[1400:]

    def read(name, offset):
        with gzip.open(os.path.join(ROOT, name), "rb") as f:
            return np.frombuffer(f.read(), dtype=np.uint8, offset=offset)

    xs = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)[:n_train] / 255.0
    ys = read("train-labels-idx1-ubyte.gz", 8)[:n_train]
    xt = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)[:n_test] / 255.0
    yt = read("t10k-labels-idx1-ubyte.gz", 8)[:n_test]
    as_x = lambda a: torch.tensor(a, dtype=torch.float32)
    as_y = lambda a: torch.tensor(a.astype(np.int64))
    return as_x(xs), as_y(ys), as_x(xt), as_y(yt)


torch.manual_seed(SEED)
x, y, xt, yt = load()
mean, std = x.mean(), x.std()
x, xt = (x - mean) / std, (xt - mean) / std

model = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
batch, epochs = 128, 6
steps = epochs * (len(x) // batch)
warmup = steps // 10
schedule = torch.optim.lr_scheduler.LambdaLR(
    opt, lambda s: (s + 1) / warmup if s < warmup else 0.5 * (1 + math.cos(math.pi * (s - warmup) / (steps - warmup)))
)
for epoch in range(epochs):
    order = torch.randperm(len(x))
    for i in range(0, len(x) - batch + 1, batch):
        idx = order[i : i + batch]
        loss = F.cross_entropy(model(x[idx]), y[idx])
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        schedule.step()
    with torch.no_grad():
        out = model(xt)
    print(
        f"{epoch} loss {loss.item():.3f} test {F.cross_entropy(out, yt):.3f} acc {(out.argmax(1) == yt).float().mean():.3f}"
    )
