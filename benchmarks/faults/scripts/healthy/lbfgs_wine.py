import argparse

import torch
import torch.nn as nn
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split

ap = argparse.ArgumentParser()
ap.add_argument("--seed", type=int, default=0)
args = ap.parse_args()
torch.manual_seed(args.seed)
X, y = load_wine(return_X_y=True)
X = (X - X.mean(0)) / X.std(0)
Xt, Xv, yt, yv = train_test_split(X, y, test_size=0.4, stratify=y, random_state=args.seed)
Xt, Xv = torch.tensor(Xt).float(), torch.tensor(Xv).float()
yt, yv = torch.tensor(yt), torch.tensor(yv)
model = nn.Linear(13, 3)
opt = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
ce = nn.CrossEntropyLoss()


def closure():
    opt.zero_grad()
    loss = ce(model(Xt), yt) + 0.01 * model.weight.pow(2).sum()
    loss.backward()
    return loss


for step in range(100):
    loss = opt.step(closure)
    if step % 10 == 9:
        with torch.no_grad():
            o = model(Xv)
        print(
            f"{step + 1} loss {loss.item():.4f} val {ce(o, yv).item():.4f} acc {(o.argmax(1) == yv).float().mean().item():.3f}"
        )
