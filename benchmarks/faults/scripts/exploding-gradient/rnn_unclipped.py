"""A vanilla RNN on a chaotic series, trained on long windows at a brisk rate without clipping."""

import argparse

import torch
from torch import nn


def logistic_series(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.empty(n)
    x[0] = 0.1 + 0.8 * torch.rand((), generator=g)
    for i in range(1, n):
        x[i] = 3.9 * x[i - 1] * (1 - x[i - 1])
    return (x - 0.55) / 0.3


class Net(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.rnn = nn.RNN(1, width, batch_first=True)
        self.out = nn.Linear(width, 1)
        nn.init.orthogonal_(self.rnn.weight_hh_l0, gain=1.8)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    series = logistic_series(4000, args.seed)
    net = Net()
    opt = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for step in range(250):
        at = torch.randint(0, len(series) - 101, (16,))
        window = torch.stack([series[i : i + 101] for i in at]).unsqueeze(-1)
        loss = (net(window[:, :-1]) - window[:, 1:]).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 25 == 0:
            print(step, loss.item())
