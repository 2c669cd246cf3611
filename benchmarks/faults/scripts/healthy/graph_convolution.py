"""Node classification on a stochastic block model; features are weak, neighbours help."""

import argparse

import torch
from torch import nn


def graph(n, k, p_in, p_out):
    label = torch.arange(n) % k
    same = label[:, None] == label[None, :]
    prob = torch.where(same, p_in, p_out)
    upper = torch.triu((torch.rand(n, n) < prob).float(), 1)
    adj = upper + upper.T + torch.eye(n)
    deg = adj.sum(1).rsqrt()
    return label, deg[:, None] * adj * deg[None, :]


class GCN(nn.Module):
    def __init__(self, d, h, k):
        super().__init__()
        self.a, self.b = nn.Linear(d, h), nn.Linear(h, k)
        self.drop = nn.Dropout(0.3)

    def forward(self, x, adj):
        return adj @ self.b(self.drop(torch.relu(adj @ self.a(x))))


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)
label, adj = graph(400, 4, 0.08, 0.01)
features = torch.randn(400, 16) + 1.0 * torch.randn(4, 16)[label]
train = torch.rand(400) < 0.6
model = GCN(16, 32, 4)
opt = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=5e-3)
for epoch in range(200):
    model.train()
    opt.zero_grad()
    loss = nn.functional.cross_entropy(model(features, adj)[train], label[train])
    loss.backward()
    opt.step()
    if epoch % 25 == 0:
        model.eval()
        with torch.no_grad():
            acc = (model(features, adj).argmax(1) == label)[~train].float().mean().item()
        print(epoch, loss.item(), acc)
