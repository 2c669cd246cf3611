"""A variational autoencoder of digits."""

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader


class VAE(nn.Module):
    def __init__(self, latent=8):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.mu, self.logvar = nn.Linear(64, latent), nn.Linear(64, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, 64), nn.ReLU(), nn.Linear(64, 64), nn.Sigmoid())

    def forward(self, x):
        h = self.encoder(x)
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        return self.decoder(z), mu, logvar


def loss_terms(recon, x, mu, logvar):
    rec = F.mse_loss(recon, x, reduction="mean")
    kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1).mean()
    return rec, kl


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beta", type=float, default=1.0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    data = torch.tensor(load_digits().data / 16, dtype=torch.float32)
    loader = DataLoader(data, batch_size=64, shuffle=True)
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(15):
        sums = [0.0, 0.0]
        for x in loader:
            recon, mu, logvar = model(x)
            rec, kl = loss_terms(recon, x, mu, logvar)
            optimizer.zero_grad()
            (rec + args.beta * kl).backward()
            optimizer.step()
            sums[0] += rec.item()
            sums[1] += kl.item()
        print(f"epoch {epoch}: reconstruction {sums[0] / len(loader):.4f}  kl {sums[1] / len(loader):.5f}")


if __name__ == "__main__":
    main()
