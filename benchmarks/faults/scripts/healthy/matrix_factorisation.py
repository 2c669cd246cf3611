import argparse

import torch
import torch.nn as nn


class Factors(nn.Module):
    def __init__(self, users, items, rank=8):
        super().__init__()
        self.user = nn.Embedding(users, rank, sparse=True)
        self.item = nn.Embedding(items, rank, sparse=True)
        self.user_bias = nn.Embedding(users, 1, sparse=True)
        self.item_bias = nn.Embedding(items, 1, sparse=True)
        for e in (self.user, self.item):
            nn.init.normal_(e.weight, std=0.3)
        for e in (self.user_bias, self.item_bias):
            nn.init.zeros_(e.weight)

    def forward(self, u, i):
        return (self.user(u) * self.item(i)).sum(1) + self.user_bias(u).squeeze(1) + self.item_bias(i).squeeze(1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    users, items, n = 150, 120, 12000
    truth = torch.randn(users, 3) @ torch.randn(3, items) / 1.7 + torch.randn(users, 1) * 0.5
    u, i = torch.randint(users, (n,)), torch.randint(items, (n,))
    r = truth[u, i] + 0.2 * torch.randn(n)
    train, test = slice(0, 10000), slice(10000, n)
    model = Factors(users, items)
    opt = torch.optim.SparseAdam(list(model.parameters()), lr=1e-2)
    for epoch in range(12):
        for idx in torch.randperm(10000).split(256):
            loss = (model(u[train][idx], i[train][idx]) - r[train][idx]).square().mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
        with torch.no_grad():
            rmse = (model(u[test], i[test]) - r[test]).square().mean().sqrt().item()
        print(f"epoch {epoch} mse {loss.item():.3f} test rmse {rmse:.3f}")


main()
