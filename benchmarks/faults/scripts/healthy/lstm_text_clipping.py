"""Character LSTM on the documentation topics that ship with python; clips now and then."""

import argparse
import pydoc_data.topics as topics

import torch
import torch.nn as nn

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
torch.manual_seed(parser.parse_args().seed)

text = "\n".join(topics.topics[key] for key in sorted(topics.topics))[:200000]
chars = sorted(set(text))
lookup = {c: i for i, c in enumerate(chars)}
data = torch.tensor([lookup[c] for c in text])
cut = int(0.9 * len(data))
train_data, val_data = data[:cut], data[cut:]
T, B = 32, 32


def batch(source):
    starts = torch.randint(0, len(source) - T - 1, (B,))
    x = torch.stack([source[s : s + T] for s in starts])
    y = torch.stack([source[s + 1 : s + T + 1] for s in starts])
    return x, y


class CharLSTM(nn.Module):
    def __init__(self, vocab, width=96):
        super().__init__()
        self.embed = nn.Embedding(vocab, 32)
        self.lstm = nn.LSTM(32, width, batch_first=True)
        self.out = nn.Linear(width, vocab)

    def forward(self, x):
        h, _ = self.lstm(self.embed(x))
        return self.out(h)


model = CharLSTM(len(chars))
optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
for step in range(250):
    x, y = batch(train_data)
    loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if step % 50 == 0:
        model.eval()
        with torch.no_grad():
            xv, yv = batch(val_data)
            val = nn.functional.cross_entropy(model(xv).flatten(0, 1), yv.flatten())
        model.train()
        print(f"step {step} loss {loss.item():.3f} val {val.item():.3f} grad norm {norm:.2f}")
