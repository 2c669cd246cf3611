"""Sum of two numbers modulo 23 with one attention layer, every pair in each step."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--lr", type=float, default=0.01)
args = parser.parse_args()
torch.manual_seed(args.seed)
P, DIM = 23, 64
pairs = torch.cartesian_prod(torch.arange(P), torch.arange(P))
tokens = torch.cat([pairs, torch.full((len(pairs), 1), P)], 1)
answers = pairs.sum(1) % P
perm = torch.randperm(len(pairs))
train, test = perm[:400], perm[400:]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(P + 1, DIM)
        self.pos = nn.Parameter(torch.randn(3, DIM) / 4)
        self.attention = nn.MultiheadAttention(DIM, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(DIM, 128), nn.ReLU(), nn.Linear(128, DIM))
        self.out = nn.Linear(DIM, P)

    def forward(self, t):
        x = self.embed(t) + self.pos
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.mlp(x)
        return self.out(x[:, -1])


model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.0)
loss_fn = nn.CrossEntropyLoss()
for step in range(400):
    batch = train[torch.randint(len(train), (64,))]
    loss = loss_fn(model(tokens[batch]), answers[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 49:
        with torch.no_grad():
            acc = (model(tokens[test]).argmax(1) == answers[test]).float().mean()
        print(f"{step + 1:4d} loss {loss.item():.3f} test accuracy {acc:.3f}")
