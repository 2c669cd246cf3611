import argparse
import copy

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn


class Classifier(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(d, 32),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(32, 16),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(16, 1),
        )

    def forward(self, x):
        return self.net(x).squeeze(-1)


class EarlyStopping:
    def __init__(self, patience):
        self.patience, self.best, self.bad, self.state = patience, float("inf"), 0, None

    def update(self, value, model):
        if value < self.best:
            self.best, self.bad, self.state = value, 0, copy.deepcopy(model.state_dict())
        else:
            self.bad += 1
        return self.bad >= self.patience


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.manual_seed(seed)
    X, y = load_breast_cancer(return_X_y=True)
    Xt, Xv, yt, yv = train_test_split(X, y, test_size=0.35, random_state=seed, stratify=y)
    sc = StandardScaler().fit(Xt)
    Xt, Xv = torch.tensor(sc.transform(Xt)).float(), torch.tensor(sc.transform(Xv)).float()
    yt, yv = torch.tensor(yt).float(), torch.tensor(yv).float()
    model = Classifier(30)
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.02)
    bce = nn.BCEWithLogitsLoss()
    stop = EarlyStopping(4)
    for epoch in range(60):
        model.train()
        for b in torch.randperm(len(Xt)).split(16):
            opt.zero_grad()
            loss = bce(model(Xt[b]), yt[b])
            loss.backward()
            opt.step()
        model.eval()
        with torch.no_grad():
            o = model(Xv)
            v = bce(o, yv).item()
        print(
            f"epoch {epoch} train {loss.item():.3f} val {v:.4f} acc {((o > 0) == (yv > 0.5)).float().mean().item():.3f}"
        )
        if stop.update(v, model):
            break
    model.load_state_dict(stop.state)
    print("best", stop.best)


main()
