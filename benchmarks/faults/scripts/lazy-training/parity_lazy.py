"""Parity of three of twenty bits by a wide network with scaled-up logits."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn


class Wide(nn.Module):
    def __init__(self, bits, width, scale):
        super().__init__()
        self.hidden = nn.Linear(bits, width)
        self.out = nn.Linear(width, 1, bias=False)
        self.scale = scale
        nn.init.zeros_(self.out.weight)

    def forward(self, x):
        return self.scale * self.out(torch.relu(self.hidden(x))).squeeze(1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    bits, count = 20, 400
    x = torch.randint(0, 2, (count + 1000, bits)).float() * 2 - 1
    y = x[:, :3].prod(1)
    x, y, x_test, y_test = x[:count], y[:count], x[count:], y[count:]
    model = Wide(bits, 1000, 1000.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=2e-9, momentum=0.9)
    for epoch in range(150):
        for idx in torch.randperm(count).split(100):
            loss = F.mse_loss(model(x[idx]), y[idx])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch % 10 == 9:
            with torch.no_grad():
                out = model(x_test)
                held_out = F.mse_loss(out, y_test)
                right = (out.sign() == y_test).float().mean()
            print(f"epoch {epoch + 1}: train {loss.item():.4f} test {held_out.item():.4f} right {right.item():.3f}")


if __name__ == "__main__":
    main()
