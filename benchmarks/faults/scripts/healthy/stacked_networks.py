"""Five nets on digits at once: torch.func.stack_module_state, vmap and functional_call, one optimizer over the stacks."""

import argparse
import copy

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
opts = parser.parse_args()
torch.manual_seed(opts.seed)

data = load_digits()
xtr, xte, ytr, yte = train_test_split(data.data / 16.0, data.target, test_size=0.25, random_state=0)
xtr, xte = (torch.tensor(v, dtype=torch.float32) for v in (xtr, xte))
ytr, yte = (torch.tensor(v) for v in (ytr, yte))


def build():
    return nn.Sequential(nn.Linear(64, 48), nn.GELU(), nn.Linear(48, 48), nn.GELU(), nn.Linear(48, 10))


models = [build() for _ in range(5)]
params, buffers = stack_module_state(models)
params = {k: v.detach().clone().requires_grad_() for k, v in params.items()}
skeleton = copy.deepcopy(models[0]).to("meta")


def forward(p, b, x):
    return functional_call(skeleton, (p, b), (x,))


optimizer = torch.optim.Adam(params.values(), lr=2e-3)
for epoch in range(20):
    order = torch.randperm(len(xtr))
    for chunk in order.split(64):
        logits = vmap(forward, in_dims=(0, 0, None))(params, buffers, xtr[chunk])
        loss = F.cross_entropy(logits.flatten(0, 1), ytr[chunk].repeat(5))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        mean = vmap(forward, in_dims=(0, 0, None))(params, buffers, xte).softmax(-1).mean(0)
    if epoch % 5 == 4:
        print(epoch, f"{loss.item():.4f}", f"{(mean.argmax(1) == yte).float().mean().item():.3f}")
