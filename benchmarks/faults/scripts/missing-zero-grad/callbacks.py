"""Seq2seq-like date normaliser trained by a Trainer with callbacks; gradients are never cleared."""

import argparse

import torch
from torch import nn


class Callback:
    def on_step(self, trainer, loss): ...
    def on_epoch(self, trainer): ...


class Printer(Callback):
    def __init__(self):
        self.total, self.count = 0.0, 0

    def on_step(self, trainer, loss):
        self.total += loss
        self.count += 1

    def on_epoch(self, trainer):
        print(trainer.epoch, self.total / self.count)
        self.total, self.count = 0.0, 0


def make_batch(size, generator):
    day = torch.randint(1, 29, (size,), generator=generator)
    month = torch.randint(1, 13, (size,), generator=generator)
    digits = torch.stack([day // 10, day % 10, month // 10, month % 10], 1)
    return digits, digits[:, [2, 3, 0, 1]]


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 24)
        self.token = nn.Linear(4, 4)
        self.channel = nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))
        self.head = nn.Linear(24, 10)

    def forward(self, ids):
        h = self.embed(ids)
        h = h + self.token(h.transpose(1, 2)).transpose(1, 2)
        return self.head(h + self.channel(h))


class Trainer:
    def __init__(self, model, callbacks, seed):
        self.model, self.callbacks = model, callbacks
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        self.generator = torch.Generator().manual_seed(seed)
        self.epoch = 0

    def training_step(self, batch):
        ids, target = batch
        return nn.functional.cross_entropy(self.model(ids).flatten(0, 1), target.flatten())

    def run(self, epochs, steps):
        for self.epoch in range(epochs):
            for _ in range(steps):
                loss = self.training_step(make_batch(64, self.generator))
                loss.backward()
                self.optimizer.step()
                for callback in self.callbacks:
                    callback.on_step(self, loss.item())
            for callback in self.callbacks:
                callback.on_epoch(self)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.manual_seed(seed)
    Trainer(Mixer(), [Printer()], seed).run(8, 60)
