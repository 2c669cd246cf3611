import argparse

import torch
from sklearn.datasets import load_diabetes
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("--seed", type=int, default=0)
args = p.parse_args()
torch.manual_seed(args.seed)

x, y = load_diabetes(return_X_y=True)
x = torch.tensor(x, dtype=torch.float32) * 21
y = torch.tensor((y - y.mean()) / y.std(), dtype=torch.float32)

BATCH = 2
model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(600):
    i = torch.randint(360, (BATCH,))
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x[i]).squeeze(1), y[i])
    loss.backward()
    optimizer.step()
    if step % 100 == 99:
        with torch.no_grad():
            print(step + 1, nn.functional.mse_loss(model(x[360:]).squeeze(1), y[360:]).item())
