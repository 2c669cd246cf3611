import argparse

import torch

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
n, d = 1000, 15
X = torch.randn(n, d)
truth = torch.randn(d, 1)
y = X @ truth + 0.3 + 0.1 * torch.randn(n, 1)
model = torch.nn.Linear(d, 1)
optimizer = torch.optim.Adagrad(model.parameters(), lr=0.3)
for epoch in range(12):
    for i in range(0, n, 50):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(X[i : i + 50]), y[i : i + 50])
        loss.backward()
        optimizer.step()
    perm = torch.randperm(n)
    X, y = X[perm], y[perm]
    print(
        f"epoch {epoch}: {loss.item():.5f}, distance to the truth {(model.weight.detach().T - truth).norm().item():.4f}"
    )
