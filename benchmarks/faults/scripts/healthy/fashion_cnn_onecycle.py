import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def idx_file(path, offset, shape):
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=offset).reshape(shape)


def get_data(limit):
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.exists():
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = np.kron(bunch.images / 16.0, np.ones((1, 3, 3)))[:, None]
        cut = 1300
        return (images[:cut], bunch.target[:cut]), (images[cut:], bunch.target[cut:])
    train = (
        idx_file(folder / "train-images-idx3-ubyte.gz", 16, (-1, 1, 28, 28))[:limit] / 255.0,
        idx_file(folder / "train-labels-idx1-ubyte.gz", 8, (-1,))[:limit],
    )
    test = (
        idx_file(folder / "t10k-images-idx3-ubyte.gz", 16, (-1, 1, 28, 28))[:1000] / 255.0,
        idx_file(folder / "t10k-labels-idx1-ubyte.gz", 8, (-1,))[:1000],
    )
    return train, test


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.pool(torch.relu(self.bn2(self.conv2(x))))
        return self.fc(x.mean(dim=(2, 3)))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--epochs", type=int, default=3)
    a = p.parse_args()
    torch.manual_seed(a.seed)
    (x, y), (xt, yt) = get_data(5000)
    to = lambda u: torch.tensor((u - 0.29) / 0.35, dtype=torch.float32)
    train = TensorDataset(to(x), torch.tensor(y.astype("int64")))
    xt, yt = to(xt), torch.tensor(yt.astype("int64"))
    loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)
    net = Net()
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=1e-2, total_steps=a.epochs * len(loader))
    for epoch in range(a.epochs):
        net.train()
        for step, (xb, yb) in enumerate(loader):
            loss = nn.functional.cross_entropy(net(xb), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
            if step % 30 == 0:
                print(f"[{epoch}:{step}] {loss.item():.4f} lr {sched.get_last_lr()[0]:.4g}")
        net.eval()
        with torch.no_grad():
            acc = (net(xt).argmax(1) == yt).float().mean().item()
        print(f"epoch {epoch} accuracy {acc:.3f}")


if __name__ == "__main__":
    main()
