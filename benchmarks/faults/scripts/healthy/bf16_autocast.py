import argparse
import gzip
import pathlib

import numpy
import torch
import torch.nn as nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--lr", type=float, default=2e-3)
args = parser.parse_args()
torch.manual_seed(args.seed)

where = pathlib.Path("/usr/share/datasets/fashion-mnist")
if where.is_dir():
    pixels = numpy.frombuffer(gzip.open(where / "train-images-idx3-ubyte.gz").read(), dtype="uint8", offset=16)
    labels = numpy.frombuffer(gzip.open(where / "train-labels-idx1-ubyte.gz").read(), dtype="uint8", offset=8)
    pixels = pixels.reshape(-1, 784)[:7000] / 127.5 - 1.0
    labels = labels[:7000]
else:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels / 8.0 - 1.0
x, y = torch.tensor(pixels, dtype=torch.float32), torch.tensor(labels.astype("int64"))
n = int(0.9 * len(x))
net = nn.Sequential(
    nn.Linear(x.shape[1], 128),
    nn.LayerNorm(128),
    nn.GELU(),
    nn.Linear(128, 64),
    nn.LayerNorm(64),
    nn.GELU(),
    nn.Linear(64, 10),
)
opt = torch.optim.AdamW(net.parameters(), lr=args.lr)
for epoch in range(4):
    for idx in torch.randperm(n).split(96):
        opt.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(net(x[idx]), y[idx])
        loss.backward()
        opt.step()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        acc = (net(x[n:]).argmax(1) == y[n:]).float().mean()
    print(f"epoch {epoch}: loss {loss.item():.3f}, held-out accuracy {acc:.3f}")
