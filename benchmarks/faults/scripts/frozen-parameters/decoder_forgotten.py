import argparse

import torch
import torch.nn as nn
from sklearn.datasets import load_digits


class Encoder(nn.Module):
    def __init__(self, code):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, code))

    def forward(self, x):
        return self.net(x)


class Decoder(nn.Module):
    def __init__(self, code):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(code, 64), nn.Tanh(), nn.Linear(64, 64))

    def forward(self, z):
        return self.net(z)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    x = torch.tensor(load_digits().data, dtype=torch.float32)
    x = (x - x.mean()) / x.std()
    x = x[torch.randperm(len(x))]
    encoder, decoder = Encoder(16), Decoder(16)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=2e-3)
    mse = nn.MSELoss()
    for epoch in range(12):
        for idx in torch.randperm(1500).split(50):
            loss = mse(decoder(encoder(x[idx])), x[idx])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            print(epoch, loss.item(), mse(decoder(encoder(x[1500:])), x[1500:]).item())


main()
