import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def nt_xent(a, b, temperature=0.2):
    z = F.normalize(torch.cat([a, b]), dim=1)
    sim = z @ z.T / temperature
    sim.fill_diagonal_(float("-inf"))
    n = len(a)
    return F.cross_entropy(sim, torch.cat([torch.arange(n, 2 * n), torch.arange(n)]))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.project = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x):
        return self.project(self.conv(x))


def jitter(x):
    x = torch.roll(x, tuple(torch.randint(-1, 2, (2,)).tolist()), (2, 3))
    return x * (0.8 + 0.4 * torch.rand(len(x), 1, 1, 1)) + 0.15 * torch.randn_like(x)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    images = torch.tensor(load_digits().images / 16, dtype=torch.float32).unsqueeze(1)
    images = (images - images.mean()) / images.std()
    model = Encoder()
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(250):
        batch = images[torch.randint(0, 1500, (96,))]
        loss = nt_xent(model(jitter(batch)), model(jitter(batch)))
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 50 == 0:
            model.eval()
            with torch.no_grad():
                held = nt_xent(model(jitter(images[1500:1596])), model(jitter(images[1500:1596])))
            model.train()
            print(step, loss.item(), held.item())
