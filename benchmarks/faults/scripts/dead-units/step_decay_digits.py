import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self, hidden=100):
        super().__init__()
        self.fc1 = nn.Linear(64, hidden)
        self.relu1 = nn.ReLU()
        self.fc2 = nn.Linear(hidden, hidden)
        self.relu2 = nn.ReLU()
        self.fc3 = nn.Linear(hidden, 10)

    def forward(self, x):
        h = self.relu1(self.fc1(x))
        return self.fc3(self.relu2(self.fc2(h)))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--lr", type=float, default=0.4)
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    d = load_digits()
    x = torch.tensor(d.data, dtype=torch.float32)
    x = (x - x.mean()) / x.std()
    y = torch.tensor(d.target)
    p = torch.randperm(len(x))
    train = DataLoader(TensorDataset(x[p[:1400]], y[p[:1400]]), batch_size=50, shuffle=True)
    xv, yv = x[p[1400:]], y[p[1400:]]
    net = Net()
    opt = torch.optim.SGD(net.parameters(), lr=args.lr, momentum=0.9)
    sched = torch.optim.lr_scheduler.MultiStepLR(opt, milestones=[3, 20], gamma=0.05)
    ce = nn.CrossEntropyLoss()
    for epoch in range(30):
        s = 0
        for a, b in train:
            opt.zero_grad()
            loss = ce(net(a), b)
            loss.backward()
            opt.step()
            s += loss.item() / len(train)
        sched.step()
        with torch.no_grad():
            o = net(xv)
        print(
            f"epoch {epoch} train {s:.3f} val {ce(o, yv).item():.3f} acc {(o.argmax(1) == yv).float().mean().item():.3f}"
        )
    with torch.no_grad():
        h1 = net.relu1(net.fc1(x))
        h2 = net.relu2(net.fc2(h1))
    print("units silent on all data:", (h1 == 0).all(0).float().mean().item(), (h2 == 0).all(0).float().mean().item())


main()
