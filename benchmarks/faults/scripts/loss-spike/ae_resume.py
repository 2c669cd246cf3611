import argparse

import torch
import torch.nn as nn
from sklearn.datasets import load_digits


class AE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.ELU(), nn.Linear(48, 12))
        self.decoder = nn.Sequential(nn.Linear(12, 48), nn.ELU(), nn.Linear(48, 64))

    def forward(self, x):
        return self.decoder(self.encoder(x))


class Trainer:
    def __init__(self, model, lr):
        self.model = model
        self.lr = lr
        self.opt = torch.optim.RMSprop(model.parameters(), lr=lr)
        self.history = []

    def set_lr(self, lr):
        for g in self.opt.param_groups:
            g["lr"] = lr

    def fit(self, x, epochs, kick_epoch=None):
        for ep in range(epochs):
            for k, idx in enumerate(torch.randperm(len(x)).split(64)):
                if ep == kick_epoch and k == 0:
                    self.set_lr(0.008)
                if ep == kick_epoch and k == 3:
                    self.set_lr(self.lr)
                loss = nn.functional.mse_loss(self.model(x[idx]), x[idx])
                self.opt.zero_grad()
                loss.backward()
                self.opt.step()
                self.history.append(loss.item())
            if ep % 5 == 4:
                print("epoch", ep + 1, "loss", round(sum(self.history[-20:]) / 20, 4))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=0)
    torch.manual_seed(p.parse_args().seed)
    x = torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 0.6
    t = Trainer(AE(), 1e-3)
    t.fit(x[:1500], 45, kick_epoch=25)
    h = t.history
    with torch.no_grad():
        te = nn.functional.mse_loss(t.model(x[1500:]), x[1500:]).item()
    print(
        f"before {sum(h[-500:-490]) / 10:.4f} max in second half {max(h[len(h) // 2 :]):.4f} end {h[-1]:.4f} test {te:.4f}"
    )


main()
