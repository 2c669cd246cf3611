import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

args = argparse.ArgumentParser()
args.add_argument("--seed", type=int, default=0)
args = args.parse_args()
torch.manual_seed(args.seed)
images, target = load_digits(return_X_y=True)
images = torch.tensor(images / 16, dtype=torch.float32)
target = torch.tensor(target)
shuffle = torch.randperm(len(target))
images, target = images[shuffle], target[shuffle]
images = (images - images[:1400].mean()) / images[:1400].std()


def block(i, o):
    return nn.Sequential(nn.Linear(i, o, bias=False), nn.BatchNorm1d(o), nn.ReLU())


net = nn.Sequential(block(64, 128), block(128, 128), nn.Linear(128, 10))
opt = torch.optim.SGD(net.parameters(), lr=0.5, weight_decay=1e-4)
sched = torch.optim.lr_scheduler.MultiStepLR(opt, milestones=[7, 10], gamma=0.1)
for epoch in range(12):
    net.train()
    for idx in torch.randperm(1400).split(64):
        if len(idx) < 2:
            continue
        opt.zero_grad()
        loss = F.cross_entropy(net(images[idx]), target[idx])
        loss.backward()
        opt.step()
    sched.step()
    net.eval()
    with torch.no_grad():
        out = net(images[1400:])
        print(
            f"{epoch}: {loss.item():.4f} | {F.cross_entropy(out, target[1400:]):.4f} {(out.argmax(1) == target[1400:]).float().mean():.4f}"
        )
