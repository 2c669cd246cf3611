import argparse

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import scale

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)

X, y = load_breast_cancer(return_X_y=True)
X = torch.tensor(scale(X), dtype=torch.float64)
y = torch.tensor(y, dtype=torch.float64)
perm = torch.randperm(len(X))
train, test = perm[:400], perm[400:]
model = torch.nn.Linear(30, 1).double()
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.2, max_iter=2, history_size=10)


def objective(idx):
    logits = model(X[idx]).squeeze(1)
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, y[idx]) + 5e-3 * model.weight.square().sum()


def closure():
    optimizer.zero_grad()
    loss = objective(train)
    loss.backward()
    return loss


for i in range(150):
    loss = optimizer.step(closure)
    if i % 25 == 0:
        with torch.no_grad():
            acc = ((model(X[test]).squeeze(1) > 0) == (y[test] > 0.5)).double().mean()
        print(f"{i:4d} {loss.item():.6f} {acc:.4f}")
