import argparse
import gzip
import struct
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
torch.manual_seed(args.seed)


def idx(path):
    raw = gzip.open(path).read()
    nd = raw[3]
    shape = struct.unpack(">" + "I" * nd, raw[4 : 4 + 4 * nd])
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * nd).reshape(shape)


root = Path("/usr/share/datasets/fashion-mnist")
if root.exists():
    X = idx(root / "train-images-idx3-ubyte.gz")[:8000].reshape(-1, 784).astype("float32") / 255
    Y = idx(root / "train-labels-idx1-ubyte.gz")[:8000].astype("int64")
else:
    from sklearn.datasets import load_digits

    X, Y = load_digits(return_X_y=True)
    X = (X / 16).astype("float32")
X = torch.tensor((X - X.mean()) / X.std())
Y = torch.tensor(Y)
n = int(0.85 * len(X))


class Net(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.l1 = nn.Linear(d, 128)
        self.l2 = nn.Linear(128, 64)
        self.l3 = nn.Linear(64, 10)
        self.act1 = nn.ReLU()
        self.act2 = nn.ReLU()
        nn.init.constant_(self.l1.bias, -1.9)

    def forward(self, x):
        return self.l3(self.act2(self.l2(self.act1(self.l1(x)))))


net = Net(X.shape[1])
opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
for epoch in range(10):
    for b in torch.randperm(n).split(64):
        loss = F.cross_entropy(net(X[b]), Y[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        o = net(X[n:])
        print(
            epoch,
            f"train {loss.item():.3f} val {F.cross_entropy(o, Y[n:]).item():.3f} acc {(o.argmax(1) == Y[n:]).float().mean().item():.3f}",
        )
with torch.no_grad():
    h1 = net.act1(net.l1(X))
    h2 = net.act2(net.l2(h1))
    print(
        "never active: layer1 %.2f layer2 %.2f"
        % ((h1 > 0).any(0).logical_not().float().mean(), (h2 > 0).any(0).logical_not().float().mean())
    )
