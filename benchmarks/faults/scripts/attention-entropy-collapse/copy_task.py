"""Reverse a sequence of tokens with nn.TransformerEncoder."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--lr", type=float, default=1e-3)
args = parser.parse_args()
torch.manual_seed(args.seed)

VOCAB, LENGTH, WIDTH = 12, 16, 32


class Reverser(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, WIDTH)
        self.places = nn.Parameter(torch.randn(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 64, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        for block in self.encoder.layers:
            nn.init.normal_(block.self_attn.in_proj_weight, std=1.0)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, x):
        return self.head(self.encoder(self.tokens(x) + self.places))


model = Reverser()
optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
criterion = nn.CrossEntropyLoss()
for step in range(300):
    x = torch.randint(VOCAB, (16, LENGTH))
    loss = criterion(model(x).transpose(1, 2), x.flip(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 30 == 29:
        print(step + 1, round(loss.item(), 4))
