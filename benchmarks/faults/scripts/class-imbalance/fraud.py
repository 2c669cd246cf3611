import argparse

import torch
import torch.nn as nn
from sklearn.datasets import make_classification
from sklearn.metrics import balanced_accuracy_score, recall_score
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset

ap = argparse.ArgumentParser()
ap.add_argument("--seed", type=int, default=0)
args = ap.parse_args()
torch.manual_seed(args.seed)

X, y = make_classification(
    8000,
    15,
    n_informative=6,
    n_redundant=3,
    weights=[0.975],
    class_sep=0.5,
    flip_y=0.0,
    n_clusters_per_class=2,
    random_state=3,
)
X = (X - X.mean(0)) / X.std(0)
Xt, Xv, yt, yv = train_test_split(X, y, test_size=0.3, stratify=y, random_state=args.seed)
train = DataLoader(TensorDataset(torch.tensor(Xt).float(), torch.tensor(yt).float()), batch_size=128, shuffle=True)
Xv_t, yv_t = torch.tensor(Xv).float(), torch.tensor(yv).float()
print("share of fraud:", yt.mean())

model = nn.Sequential(nn.Linear(15, 16), nn.ReLU(), nn.Linear(16, 1))
criterion = nn.BCEWithLogitsLoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(15):
    model.train()
    for xb, yb in train:
        optimizer.zero_grad()
        loss = criterion(model(xb).squeeze(1), yb)
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        logit = model(Xv_t).squeeze(1)
    pred = (logit > 0).int().numpy()
    print(
        f"epoch {epoch} val {criterion(logit, yv_t).item():.4f} acc {(pred == yv).mean():.4f} recall {recall_score(yv, pred):.3f} balanced {balanced_accuracy_score(yv, pred):.3f}"
    )
