import argparse

import torch
import torch.nn as nn
from sklearn.datasets import load_digits

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
seed = parser.parse_args().seed
torch.manual_seed(seed)
X, y = load_digits(return_X_y=True)
X = torch.from_numpy(X).float().sub(4.9).div(6.0)
y = torch.from_numpy(y)
order = torch.randperm(len(X))
train_idx, test_idx = order[:1400], order[1400:]
net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
loss_fn = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
for epoch in range(20):
    shuffled = train_idx[torch.randperm(1400)]
    epoch_loss = 0.0
    for i in range(0, 1400, 28):
        batch = shuffled[i : i + 28]
        output = net(X[batch])
        loss = loss_fn(output, y[batch])
        loss.backward()
        optimizer.step()
        epoch_loss += loss.item() / 50
    with torch.no_grad():
        out = net(X[test_idx])
        print(
            f"epoch {epoch + 1}: loss {epoch_loss:.4f} test loss {loss_fn(out, y[test_idx]).item():.4f} acc {(out.argmax(1) == y[test_idx]).float().mean():.3f}"
        )
print("gradient norm left in buffers:", sum(p.grad.norm() ** 2 for p in net.parameters()).sqrt().item())
