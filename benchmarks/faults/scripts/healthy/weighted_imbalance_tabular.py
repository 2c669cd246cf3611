import argparse

import torch
from sklearn.datasets import make_classification
from sklearn.metrics import balanced_accuracy_score, recall_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.manual_seed(seed)
    X, y = make_classification(
        6000, 12, n_informative=8, n_redundant=2, weights=[0.93], class_sep=1.2, flip_y=0, random_state=5
    )
    X = torch.tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)
    y = torch.tensor(y)
    p = torch.randperm(len(X))
    tr, va = p[:4500], p[4500:]
    counts = y[tr].bincount().float()
    weight = counts.sum() / (2 * counts)
    loader = DataLoader(TensorDataset(X[tr], y[tr]), batch_size=90, shuffle=True)
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 2))
    crit = nn.CrossEntropyLoss(weight=weight)
    opt = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for epoch in range(16):
        for a, b in loader:
            opt.zero_grad()
            loss = crit(model(a), b)
            loss.backward()
            opt.step()
        with torch.no_grad():
            o = model(X[va])
        pred = o.argmax(1)
        print(
            f"epoch {epoch} train {loss.item():.3f} val {crit(o, y[va]).item():.3f} balanced {balanced_accuracy_score(y[va], pred):.3f} recall {recall_score(y[va], pred):.3f}"
        )


main()
