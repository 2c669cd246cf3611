import argparse

import torch
import torch.nn as nn
from sklearn.datasets import load_digits


class AutoEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU())
        self.decoder = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 64))
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.kaiming_normal_(m.weight)
                nn.init.constant_(m.bias, -2.5)
        nn.init.zeros_(self.decoder[2].bias)

    def forward(self, x):
        return self.decoder(self.encoder(x))


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
x = torch.tensor(load_digits().data, dtype=torch.float32)
x = (x - x.mean()) / x.std()
x = x[torch.randperm(len(x))]
model = AutoEncoder()
opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for epoch in range(12):
    for idx in torch.randperm(1500).split(50):
        loss = nn.functional.mse_loss(model(x[idx]), x[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        print(epoch, loss.item(), nn.functional.mse_loss(model(x[1500:]), x[1500:]).item())
