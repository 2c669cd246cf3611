import argparse

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

ap = argparse.ArgumentParser()
ap.add_argument("--seed", default=0, type=int)
seed = ap.parse_args().seed
np.random.seed(seed)
torch.manual_seed(seed)

X, y = load_wine(return_X_y=True)
Xtr, Xte, ytr, yte = train_test_split(X, y, test_size=0.3, random_state=seed, stratify=y)
scaler = StandardScaler().fit(Xtr)
Xtr = torch.from_numpy(scaler.transform(Xtr)).float()
Xte = torch.from_numpy(scaler.transform(Xte)).float()
ytr, yte = torch.from_numpy(ytr), torch.from_numpy(yte)

W = torch.zeros(13, 3, requires_grad=True)
b = torch.zeros(3, requires_grad=True)
opt = torch.optim.SGD([W, b], lr=0.1, weight_decay=1e-2)
for it in range(400):
    loss = F.cross_entropy(Xtr @ W + b, ytr)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if it % 50 == 0:
        acc = ((Xte @ W + b).argmax(1) == yte).float().mean().item()
        print(it, round(loss.item(), 4), round(acc, 3))
