"""Benign or malignant: a network on the breast cancer data."""

import argparse
import random

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Patients(Dataset):
    def __init__(self, x, y):
        self.x = torch.as_tensor(x, dtype=torch.float32)
        self.y = torch.as_tensor(y, dtype=torch.float32)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


class Classifier(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(features, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 1), nn.Sigmoid()
        )

    def forward(self, x):
        return self.net(x).squeeze(1)


def run(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    x, y = load_breast_cancer(return_X_y=True)
    x_tr, x_va, y_tr, y_va = train_test_split(x, y, test_size=0.25, random_state=seed)
    scaler = StandardScaler().fit(x_tr)
    train = DataLoader(Patients(scaler.transform(x_tr), y_tr), batch_size=32, shuffle=True)
    val = Patients(scaler.transform(x_va), y_va)
    model = Classifier(x.shape[1])
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(25):
        losses = []
        for xb, yb in train:
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            p = model(val.x)
        acc = ((p > 0.5) == (val.y > 0.5)).float().mean().item()
        if epoch % 5 == 4:
            print(f"epoch {epoch + 1} loss {np.mean(losses):.4f} val accuracy {acc:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    run(parser.parse_args().seed)
