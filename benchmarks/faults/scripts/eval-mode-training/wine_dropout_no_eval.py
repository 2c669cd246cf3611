"""Wine cultivars from their chemistry; the validation loss decides when to stop."""

import argparse

import torch
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
opt = parser.parse_args()
torch.manual_seed(opt.seed)

X, y = load_wine(return_X_y=True)
X_tr, X_te, y_tr, y_te = train_test_split(X, y, test_size=0.4, random_state=opt.seed, stratify=y)
scaler = StandardScaler().fit(X_tr)
X_tr = torch.tensor(scaler.transform(X_tr), dtype=torch.float32)
X_te = torch.tensor(scaler.transform(X_te), dtype=torch.float32)
y_tr, y_te = torch.tensor(y_tr), torch.tensor(y_te)


class WineNet(nn.Module):
    def __init__(self, hidden=64, p=0.6):
        super().__init__()
        self.inp = nn.Linear(13, hidden)
        self.mid = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 3)
        self.drop = nn.Dropout(p)

    def forward(self, x):
        x = self.drop(torch.relu(self.inp(x)))
        x = self.drop(torch.relu(self.mid(x)))
        return self.out(x)


net = WineNet()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.RMSprop(net.parameters(), lr=1e-3)
best, patience = float("inf"), 0

for epoch in range(120):
    perm = torch.randperm(len(X_tr))
    for i in range(0, len(perm), 16):
        batch = perm[i : i + 16]
        optimizer.zero_grad()
        loss = criterion(net(X_tr[batch]), y_tr[batch])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        out = net(X_te)
        val = criterion(out, y_te).item()
        acc = (out.argmax(1) == y_te).float().mean().item()
    if val < best:
        best, patience = val, 0
    else:
        patience += 1
    if epoch % 10 == 9:
        print(f"{epoch + 1}: val loss {val:.3f} acc {acc:.3f} (best {best:.3f})")
    if patience >= 60:
        print("stopped early at", epoch)
        break
