import argparse

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

p = argparse.ArgumentParser()
p.add_argument("--seed", type=int, default=0)
p.add_argument("--lr", type=float, default=0.112)
args = p.parse_args()
torch.manual_seed(args.seed)

X, y = load_diabetes(return_X_y=True)
X = PolynomialFeatures(2, include_bias=False).fit_transform(StandardScaler().fit_transform(X))
X = StandardScaler().fit_transform(X)
y = (y - y.mean()) / y.std()
perm = np.random.RandomState(args.seed).permutation(len(X))
X = torch.tensor(X[perm], dtype=torch.float32)
y = torch.tensor(y[perm], dtype=torch.float32)
Xtr, ytr, Xte, yte = X[:350], y[:350], X[350:], y[350:]

model = torch.nn.Linear(X.shape[1], 1)
opt = torch.optim.SGD(model.parameters(), lr=args.lr)
lossf = torch.nn.MSELoss()
step = 0
first = None
for epoch in range(50):
    order = torch.randperm(len(Xtr))
    for i in range(0, 350, 50):
        idx = order[i : i + 50]
        opt.zero_grad()
        loss = lossf(model(Xtr[idx]).squeeze(1), ytr[idx])
        loss.backward()
        opt.step()
        first = first or loss.item()
        step += 1
    if epoch % 5 == 0:
        print(f"epoch {epoch} loss {loss.item():.4g}")
with torch.no_grad():
    print(f"first {first:.4g} final {loss.item():.4g} test {lossf(model(Xte).squeeze(1), yte).item():.4g}")
