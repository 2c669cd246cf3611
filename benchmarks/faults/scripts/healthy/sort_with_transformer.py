"""An encoder (torch's own layers) learns to sort short sequences."""

import argparse

import torch
from torch import nn

VOCAB, LENGTH = 10, 8


class Sorter(nn.Module):
    def __init__(self, width=48):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, width)
        self.position = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        layer = nn.TransformerEncoderLayer(width, 4, 96, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(width, VOCAB)

    def forward(self, x):
        return self.out(self.encoder(self.embed(x) + self.position))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    model = Sorter()
    steps = 350
    opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
    warm = torch.optim.lr_scheduler.LinearLR(opt, 0.05, total_iters=40)
    cool = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps - 40)
    sched = torch.optim.lr_scheduler.SequentialLR(opt, [warm, cool], [40])
    for step in range(steps):
        x = torch.randint(0, VOCAB, (64, LENGTH))
        y = x.sort(1).values
        loss = nn.functional.cross_entropy(model(x).transpose(1, 2), y)
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        sched.step()
        if step % 70 == 0:
            with torch.no_grad():
                x = torch.randint(0, VOCAB, (200, LENGTH))
                acc = (model(x).argmax(-1) == x.sort(1).values).float().mean().item()
            print(f"{step} {loss.item():.4f} accuracy {acc:.3f}")


main()
