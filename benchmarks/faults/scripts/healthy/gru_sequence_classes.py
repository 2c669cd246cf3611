import argparse

import torch
from torch import nn

# Which of four waveforms is it? Noisy sequences of 40 samples.


def make(n, g):
    label = torch.randint(0, 4, (n,), generator=g)
    t = torch.arange(40).float()
    freq = 0.15 + 0.25 * torch.rand(n, 1, generator=g)
    phase = 6.28 * torch.rand(n, 1, generator=g)
    angle = freq * t + phase
    waves = torch.stack(
        [angle.sin(), angle.sin().sign(), 2 * (angle / 6.2832 % 1) - 1, (t / 20 - 1).expand(n, -1) * freq.sign()]
    )
    x = waves[label, torch.arange(n)] + 0.15 * torch.randn(n, 40, generator=g)
    return x.unsqueeze(-1), label


class Classifier(nn.Module):
    def __init__(self, hidden=40):
        super().__init__()
        self.gru = nn.GRU(1, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, 4)

    def forward(self, x):
        out, _ = self.gru(x)
        return self.fc(out.mean(1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    s = parser.parse_args().seed
    torch.manual_seed(s)
    g = torch.Generator().manual_seed(s)
    x, y = make(3000, g)
    xv, yv = make(500, g)
    model = Classifier()
    opt = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch in range(6):
        for idx in torch.randperm(len(x)).split(64):
            opt.zero_grad()
            loss = nn.functional.cross_entropy(model(x[idx]), y[idx])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            opt.step()
        with torch.no_grad():
            out = model(xv)
        print(
            f"{epoch} {loss.item():.3f} {nn.functional.cross_entropy(out, yv).item():.3f} {(out.argmax(1) == yv).float().mean().item():.3f}"
        )
