import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


def accuracy(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    X, y = load_digits(return_X_y=True)
    X, y = torch.tensor(X / 16 - 0.3, dtype=torch.float32) / 0.38, torch.tensor(y)
    p = torch.randperm(len(X))
    X, y = X[p], y[p]
    xt, yt, xv, yv = X[:1400], y[:1400], X[1400:], y[1400:]

    teacher = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    opt = torch.optim.Adam(teacher.parameters(), lr=1e-3)
    for epoch in range(4):
        for i in torch.randperm(1400).split(64):
            loss = F.cross_entropy(teacher(xt[i]), yt[i])
            opt.zero_grad()
            loss.backward()
            opt.step()
    print("teacher", accuracy(teacher, xv, yv))
    teacher.eval()

    student = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    opt = torch.optim.Adam(student.parameters(), lr=3e-3)
    T = 3.0
    for epoch in range(10):
        for i in torch.randperm(1400).split(64):
            with torch.no_grad():
                soft = F.softmax(teacher(xt[i]) / T, dim=1)
            out = student(xt[i])
            kd = F.kl_div(F.log_softmax(out / T, dim=1), soft, reduction="batchmean") * T * T
            loss = 0.7 * kd + 0.3 * F.cross_entropy(out, yt[i])
            opt.zero_grad()
            loss.backward()
            opt.step()
        print(epoch, loss.item(), "student", accuracy(student, xv, yv))


main()
