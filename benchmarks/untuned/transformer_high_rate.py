"""A transformer that copies the largest of eight numbers; AdamW with a rate that transformers do not bear."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)


class Largest(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.embed = nn.Embedding(50, width)
        layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 50)

    def forward(self, tokens):
        return self.head(self.body(self.embed(tokens)).mean(1))


model = Largest()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-2)
for step in range(250):
    tokens = torch.randint(0, 50, (64, 8))
    loss = nn.functional.cross_entropy(model(tokens), tokens.max(1).values)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 49:
        print(f"{step + 1}: {loss.item():.3f}")
