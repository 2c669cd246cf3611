import argparse

import torch
from torch import nn


class IRNN(nn.Module):
    """Recurrent ReLU network that starts from the identity."""

    def __init__(self, width=64):
        super().__init__()
        self.rnn = nn.RNN(2, width, nonlinearity="relu", batch_first=True)
        self.out = nn.Linear(width, 1)
        with torch.no_grad():
            self.rnn.weight_hh_l0.copy_(torch.eye(width))
            self.rnn.weight_ih_l0.normal_(std=0.1)
            self.rnn.bias_ih_l0.zero_()
            self.rnn.bias_hh_l0.zero_()

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1]).squeeze(1)


def adding(n, length):
    values = torch.rand(n, length)
    marks = torch.zeros(n, length)
    first = torch.randint(0, length // 2, (n,))
    second = torch.randint(length // 2, length, (n,))
    rows = torch.arange(n)
    marks[rows, first] = marks[rows, second] = 1.0
    return torch.stack([values, marks], 2), values[rows, first] + values[rows, second]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    model = IRNN()
    opt = torch.optim.SGD(model.parameters(), lr=0.0005)
    for step in range(250):
        x, t = adding(32, 80)
        loss = (model(x) - t).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 25 == 0:
            print(step, loss.item())
