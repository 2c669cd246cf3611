import argparse

import numpy as np
import torch
from torch import nn

ap = argparse.ArgumentParser()
ap.add_argument("--seed", type=int, default=0)
seed = ap.parse_args().seed
np.random.seed(seed)
torch.manual_seed(seed)
t = np.arange(3000)
series = np.sin(t / 12) + 0.5 * np.sin(t / 5.3) + 0.1 * np.random.randn(3000)
series = (series - series.mean()) / series.std()
W = 30
X = np.stack([series[i : i + W] for i in range(len(series) - W)])
Y = series[W:]
X = torch.tensor(X, dtype=torch.float32).unsqueeze(-1)
Y = torch.tensor(Y, dtype=torch.float32)
cut = 2400


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(1, 32, batch_first=True)
        self.head = nn.Linear(32, 1)

    def forward(self, x):
        _, (h, _) = self.rnn(x)
        return self.head(h[-1]).squeeze(-1)


model = Forecaster()
optimizer = torch.optim.RMSprop(model.parameters(), lr=3e-3)
for epoch in range(6):
    order = np.random.permutation(cut)
    for i in range(0, cut, 64):
        idx = order[i : i + 64]
        loss = nn.functional.mse_loss(model(X[idx]), Y[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        test = nn.functional.mse_loss(model(X[cut:]), Y[cut:]).item()
    print("epoch", epoch, "train", loss.item(), "test", test)
