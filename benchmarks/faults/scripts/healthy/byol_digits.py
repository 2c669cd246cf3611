"""Self-distillation: an online network predicts a slow copy of itself. Judged by a nearest-neighbour probe."""

import argparse
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
d = load_digits()
x = torch.tensor(d.data, dtype=torch.float32)
x = (x - x.mean()) / x.std()
y = torch.tensor(d.target)
perm = torch.randperm(len(x))
x, y = x[perm], y[perm]


def augment(v):
    return v * (torch.rand_like(v) > 0.15) + 0.2 * torch.randn_like(v)


encoder = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 64))
projector = nn.Sequential(nn.Linear(64, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 32))
predictor = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))
online = nn.Sequential(encoder, projector)
slow = copy.deepcopy(online)
slow.requires_grad_(False)
opt = torch.optim.AdamW([*online.parameters(), *predictor.parameters()], lr=2e-3, weight_decay=1e-3)
for step in range(300):
    batch = x[torch.randint(0, 1400, (128,))]
    a, b = augment(batch), augment(batch)
    with torch.no_grad():
        ta, tb = slow(a), slow(b)
    loss = (
        2 - F.cosine_similarity(predictor(online(a)), tb).mean() - F.cosine_similarity(predictor(online(b)), ta).mean()
    )
    opt.zero_grad()
    loss.backward()
    opt.step()
    with torch.no_grad():
        for p, q in zip(slow.parameters(), online.parameters()):
            p.lerp_(q, 0.03)
    if step % 60 == 0:
        encoder.eval()
        with torch.no_grad():
            z = F.normalize(encoder(x), dim=1)
            hit = (y[:1400][(z[1400:] @ z[:1400].T).argmax(1)] == y[1400:]).float().mean()
        encoder.train()
        print(step, loss.item(), "1-NN", hit.item())
