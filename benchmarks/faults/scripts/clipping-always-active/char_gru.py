import argparse
import this  # its text is the corpus

import torch
import torch.nn as nn
import torch.nn.functional as F


class CharModel(nn.Module):
    def __init__(self, vocabulary, width=64):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 32)
        self.gru = nn.GRU(32, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens):
        hidden, _ = self.gru(self.embedding(tokens))
        return self.head(hidden)


def sample_batch(data, length, size):
    starts = torch.randint(0, len(data) - length - 1, (size,))
    windows = torch.stack([data[s : s + length + 1] for s in starts])
    return windows[:, :-1], windows[:, 1:]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--clip", type=float, default=0.02)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    text = "".join(this.d.get(c, c) for c in this.s) * 2
    letters = sorted(set(text))
    data = torch.tensor([letters.index(c) for c in text])
    model = CharModel(len(letters))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.0)
    for step in range(options.steps):
        x, y = sample_batch(data, 32, 16)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        optimizer.step()
        if step % 50 == 0:
            print(f"{step:5d} {loss.item():.4f}")
    print("final", loss.item())


main()
