import argparse

import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class ResBlock(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.fc = nn.Linear(d, d)
        self.proj = nn.Linear(d, d)
        nn.init.kaiming_normal_(self.fc.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(self.proj.weight, nonlinearity="linear")

    def forward(self, x):
        return x + self.proj(torch.relu(self.fc(x)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--blocks", type=int, default=24)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    d = load_digits()
    x = ((d.data / 16 - 0.3) / 0.38).astype(np.float32)
    xa, xb, ya, yb = map(torch.tensor, train_test_split(x, d.target, test_size=0.2, random_state=args.seed))
    net = nn.Sequential(nn.Linear(64, 40), *[ResBlock(40) for _ in range(args.blocks)], nn.Linear(40, 10))
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    ce = nn.CrossEntropyLoss()
    gn = []
    for epoch in range(8):
        for idx in torch.randperm(len(xa)).split(32):
            opt.zero_grad()
            loss = ce(net(xa[idx]), ya[idx])
            loss.backward()
            gn.append(float(nn.utils.get_total_norm([p.grad for p in net.parameters()])))
            opt.step()
        with torch.no_grad():
            o = net(xb)
        print(
            epoch,
            f"loss {loss.item():.4g} val {ce(o, yb).item():.4g} acc {(o.argmax(1) == yb).float().mean().item():.3f} grad {gn[-1]:.4g}",
        )
    print("grad norm first", gn[0], "max", max(gn))


main()
