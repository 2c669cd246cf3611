"""Next-character model over the Zen of Python with a two-layer LSTM."""

import argparse
import codecs
import contextlib
import io

import torch
from torch import nn

with contextlib.redirect_stdout(io.StringIO()):
    import this

TEXT = codecs.decode(this.s, "rot13")


class CharLSTM(nn.Module):
    def __init__(self, vocabulary, width=64):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 32)
        self.lstm = nn.LSTM(32, width, num_layers=2, dropout=0.4, batch_first=True)
        self.dropout = nn.Dropout(0.4)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens):
        hidden, _ = self.lstm(self.embed(tokens))
        return self.head(self.dropout(hidden))


class Trainer:
    def __init__(self, seed):
        torch.manual_seed(seed)
        letters = sorted(set(TEXT))
        self.data = torch.tensor([letters.index(c) for c in TEXT])
        cut = int(0.85 * len(self.data))
        self.train_data, self.val_data = self.data[:cut], self.data[cut:]
        self.model = CharLSTM(len(letters))
        self.model.train()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=5e-3)
        self.loss = nn.CrossEntropyLoss()

    def batch(self, data, size=16, length=32):
        starts = torch.randint(len(data) - length - 1, (size,)).tolist()
        x = torch.stack([data[s : s + length] for s in starts])
        y = torch.stack([data[s + 1 : s + length + 1] for s in starts])
        return x, y

    @torch.no_grad()
    def validate(self):
        self.model.eval()
        total = 0.0
        for _ in range(2):
            x, y = self.batch(self.val_data)
            total += self.loss(self.model(x).transpose(1, 2), y).item()
        return total / 2

    def fit(self, steps=240):
        for step in range(1, steps + 1):
            x, y = self.batch(self.train_data)
            self.optimizer.zero_grad()
            loss = self.loss(self.model(x).transpose(1, 2), y)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
            self.optimizer.step()
            if step % 20 == 0:
                print(f"step {step}: train {loss.item():.3f} val {self.validate():.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    Trainer(parser.parse_args().seed).fit()
