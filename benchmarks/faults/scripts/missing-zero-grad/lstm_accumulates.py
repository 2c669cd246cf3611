import argparse
from pydoc_data import topics

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, vocab):
        super().__init__()
        self.embed, self.lstm, self.out = (
            nn.Embedding(vocab, 24),
            nn.LSTM(24, 64, batch_first=True),
            nn.Linear(64, vocab),
        )

    def forward(self, x, state=None):
        h, state = self.lstm(self.embed(x), state)
        return self.out(h), state


class Trainer:
    def __init__(self, model, lr):
        self.model = model
        self.optimizer = torch.optim.RMSprop(model.parameters(), lr=lr)
        self.loss = nn.CrossEntropyLoss()

    def step(self, x, y):
        logits, _ = self.model(x)
        loss = self.loss(logits.flatten(0, 1), y.flatten())
        loss.backward()
        self.optimizer.step()
        return loss.item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    text = "".join(list(topics.topics.values())[:30])[:60000]
    chars = sorted(set(text))
    ids = torch.tensor([chars.index(c) for c in text])
    trainer = Trainer(Model(len(chars)), 2e-3)
    for step in range(250):
        at = torch.randint(0, len(ids) - 31, (24,))
        x = torch.stack([ids[i : i + 30] for i in at])
        y = torch.stack([ids[i + 1 : i + 31] for i in at])
        loss = trainer.step(x, y)
        if step % 25 == 0:
            print(step, loss)
