import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import make_classification
from torch.utils.data import DataLoader, TensorDataset


class FocalLoss(nn.Module):
    def __init__(self, gamma=2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, logits, target):
        logp = F.log_softmax(logits, dim=1).gather(1, target.unsqueeze(1)).squeeze(1)
        return (-((1 - logp.exp()) ** self.gamma) * logp).mean()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.manual_seed(seed)
    x, y = make_classification(
        5000, 16, n_informative=10, n_classes=3, weights=[0.5, 0.3, 0.2], class_sep=1.8, flip_y=0, random_state=seed
    )
    x = torch.tensor((x - x.mean(0)) / x.std(0), dtype=torch.float32)
    y = torch.tensor(y)
    loader = DataLoader(TensorDataset(x[:4000], y[:4000]), batch_size=64, shuffle=True)
    model = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 3))
    criterion = FocalLoss()
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(6):
        for xb, yb in loader:
            opt.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            opt.step()
        with torch.no_grad():
            out = model(x[4000:])
        print(
            f"{epoch}: {loss.item():.4f} val {criterion(out, y[4000:]).item():.4f} acc {(out.argmax(1) == y[4000:]).float().mean().item():.3f}"
        )


main()
