import argparse

import numpy as np
import torch
from torch import nn


class LSTMClassifier(nn.Module):
    def __init__(self, hidden=32, classes=3):
        super().__init__()
        self.lstm = nn.LSTM(2, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, classes)

    def forward(self, x):
        out, _ = self.lstm(x)
        return self.fc(out.mean(1))


def machine(n, rng, probs):
    """Vibration records of a machine: normal, worn bearing, loose bolt."""
    y = rng.choice(3, n, p=probs)
    t = np.arange(30)
    f = np.array([0.5, 0.95, 0.56])[y][:, None]
    amp = np.array([1.0, 1.0, 1.12])[y][:, None]
    a = amp * np.sin(f * t + rng.uniform(0, 6.28, (n, 1))) + 0.6 * rng.normal(size=(n, 30))
    b = amp * np.cos(f * t) + 0.6 * rng.normal(size=(n, 30))
    return torch.tensor(np.stack([a, b], -1), dtype=torch.float32), torch.tensor(y)


def report(model, x, y):
    with torch.no_grad():
        o = model(x)
    p = o.argmax(1)
    return nn.functional.cross_entropy(o, y).item(), [
        round((p[y == c] == c).float().mean().item(), 3) for c in range(3)
    ]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    xt, yt = machine(2500, rng, [0.72, 0.26, 0.02])
    xv, yv = machine(900, rng, [0.72, 0.26, 0.02])
    model = LSTMClassifier()
    weight = None
    opt = torch.optim.Adam(model.parameters(), lr=4e-3)
    for epoch in range(12):
        for b in torch.randperm(len(xt)).split(50):
            loss = nn.functional.cross_entropy(model(xt[b]), yt[b], weight=weight)
            opt.zero_grad()
            loss.backward()
            opt.step()
        v, rec = report(model, xv, yv)
        print(f"epoch {epoch} train {loss.item():.3f} val {v:.3f} recall per class {rec}")


main()
