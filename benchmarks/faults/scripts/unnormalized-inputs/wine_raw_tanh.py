import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split


class WineNet(nn.Module):
    def __init__(self, hidden=32):
        super().__init__()
        self.fc1 = nn.Linear(13, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, 3)

    def forward(self, x):
        x = torch.tanh(self.fc1(x))
        x = torch.tanh(self.fc2(x))
        return self.fc3(x)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    d = load_wine()
    x = d.data
    xt, xv, yt, yv = train_test_split(x, d.target, test_size=0.3, stratify=d.target, random_state=args.seed)
    xt, xv = torch.tensor(xt, dtype=torch.float32), torch.tensor(xv, dtype=torch.float32)
    yt, yv = torch.tensor(yt), torch.tensor(yv)
    net = WineNet()
    opt = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for epoch in range(100):
        for b in torch.randperm(len(xt)).split(16):
            opt.zero_grad()
            loss = F.cross_entropy(net(xt[b]), yt[b])
            loss.backward()
            opt.step()
        if epoch % 10 == 9:
            with torch.no_grad():
                o = net(xv)
            print(
                epoch + 1,
                f"train {loss.item():.3f} val {F.cross_entropy(o, yv).item():.3f} acc {(o.argmax(1) == yv).float().mean().item():.3f}",
            )


if __name__ == "__main__":
    main()
