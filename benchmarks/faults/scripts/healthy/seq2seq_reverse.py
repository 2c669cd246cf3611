"""Encoder-decoder GRU that reverses digit strings, with teacher forcing."""

import argparse
import random

import torch
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset

PAD, BOS = 10, 11


class Strings(Dataset):
    def __init__(self, count, seed, longest=8):
        rng = random.Random(seed)
        self.items = [[rng.randrange(10) for _ in range(rng.randint(4, longest))] for _ in range(count)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return torch.tensor(self.items[i])


def collate(batch):
    src = nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=PAD)
    out = nn.utils.rnn.pad_sequence([b.flip(0) for b in batch], batch_first=True, padding_value=PAD)
    dec = torch.cat([torch.full((len(batch), 1), BOS), out[:, :-1]], 1)
    return src, dec, out


class Seq2Seq(nn.Module):
    def __init__(self, dim=64):
        super().__init__()
        self.src, self.tgt = nn.Embedding(12, 32), nn.Embedding(12, 32)
        self.encoder = nn.GRU(32, dim, batch_first=True)
        self.decoder = nn.GRU(32, dim, batch_first=True)
        self.attend = nn.Linear(dim, dim, bias=False)
        self.head = nn.Linear(2 * dim, 12)

    def forward(self, src, dec):
        memory, state = self.encoder(self.src(src))
        h, _ = self.decoder(self.tgt(dec), state)
        scores = self.attend(h) @ memory.transpose(1, 2) / memory.shape[-1] ** 0.5
        scores = scores.masked_fill((src == PAD)[:, None], float("-inf"))
        return self.head(torch.cat([h, scores.softmax(-1) @ memory], -1))


class Trainer:
    def __init__(self, model, lr):
        self.model, self.criterion = model, nn.CrossEntropyLoss(ignore_index=PAD)
        self.optimizer = optim.Adam(model.parameters(), lr=lr)

    def step(self, batch):
        src, dec, out = batch
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.criterion(self.model(src, dec).transpose(1, 2), out)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def evaluate(self, loader):
        self.model.eval()
        right = total = 0
        for src, dec, out in loader:
            guess = self.model(src, dec).argmax(-1)
            mask = out != PAD
            right += ((guess == out) & mask).sum().item()
            total += mask.sum().item()
        return right / total


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    train = DataLoader(Strings(3000, args.seed), batch_size=64, shuffle=True, collate_fn=collate)
    test = DataLoader(Strings(500, args.seed + 1), batch_size=256, collate_fn=collate)
    trainer = Trainer(Seq2Seq(), 3e-3)
    for epoch in range(6):
        losses = [trainer.step(b) for b in train]
        print(f"epoch {epoch} loss {sum(losses) / len(losses):.3f} token accuracy {trainer.evaluate(test):.3f}")
