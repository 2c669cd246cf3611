import argparse
import copy

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn


class EarlyStopping:
    def __init__(self, patience=5, min_delta=1e-3):
        self.patience, self.min_delta = patience, min_delta
        self.best, self.bad, self.state = float("inf"), 0, None

    def __call__(self, value, model):
        if value < self.best - self.min_delta:
            self.best, self.bad, self.state = value, 0, copy.deepcopy(model.state_dict())
        else:
            self.bad += 1
        return self.bad >= self.patience


def main(seed):
    torch.manual_seed(seed)
    X, y = load_breast_cancer(return_X_y=True)
    X_tr, X_va, y_tr, y_va = train_test_split(X, y, test_size=0.3, random_state=seed, stratify=y)
    scale = StandardScaler().fit(X_tr)
    X_tr = torch.tensor(scale.transform(X_tr), dtype=torch.float32)
    X_va = torch.tensor(scale.transform(X_va), dtype=torch.float32)
    y_tr = torch.tensor(y_tr, dtype=torch.float32)
    y_va = torch.tensor(y_va, dtype=torch.float32)
    model = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))
    opt = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-3)
    lossf = nn.BCEWithLogitsLoss()
    stop = EarlyStopping()
    for epoch in range(40):
        model.train()
        perm = torch.randperm(len(X_tr))
        for i in range(0, len(perm), 16):
            idx = perm[i : i + 16]
            opt.zero_grad()
            loss = lossf(model(X_tr[idx]).squeeze(1), y_tr[idx])
            loss.backward()
            opt.step()
        model.eval()
        with torch.no_grad():
            out = model(X_va).squeeze(1)
            val = lossf(out, y_va).item()
            acc = ((out > 0) == (y_va > 0.5)).float().mean().item()
        print(f"{epoch:3d} {loss.item():.4f} {val:.4f} {acc:.3f}")
        if stop(val, model):
            print("early stop")
            break
    model.load_state_dict(stop.state)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args().seed)
