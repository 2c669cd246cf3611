import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class SequenceClassifier(nn.Module):
    def __init__(self, hidden=40, classes=4):
        super().__init__()
        self.encoder = nn.GRU(1, hidden, batch_first=True)
        self.head = nn.Sequential(nn.Linear(hidden, 32), nn.ReLU(), nn.Linear(32, classes))

    def encode(self, x):
        with torch.no_grad():
            _, h = self.encoder(x.unsqueeze(-1))
        return h[-1]

    def forward(self, x):
        return self.head(self.encode(x))


def waves(n, seed, length=40):
    g = torch.Generator().manual_seed(seed)
    t = torch.arange(length).float()
    y = torch.randint(0, 4, (n,), generator=g)
    f = 0.2 + 0.06 * y.float()[:, None] + 0.015 * torch.randn(n, 1, generator=g)
    ph = 6.28 * torch.rand(n, 1, generator=g)
    return torch.sin(f * t + ph) * (0.5 + torch.rand(n, 1, generator=g)) + 0.2 * torch.randn(n, length, generator=g), y


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.manual_seed(seed)
    train = DataLoader(TensorDataset(*waves(2000, seed + 10)), batch_size=50, shuffle=True)
    xv, yv = waves(500, seed + 20)
    model = SequenceClassifier()
    before = model.encoder.weight_hh_l0.detach().clone()
    opt = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch in range(12):
        for x, y in train:
            opt.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
        with torch.no_grad():
            o = model(xv)
            print(
                epoch,
                f"loss {loss.item():.3f} val {nn.functional.cross_entropy(o, yv).item():.3f} acc {(o.argmax(1) == yv).float().mean().item():.3f}",
            )
    print("encoder weight change", (model.encoder.weight_hh_l0 - before).norm().item())


main()
