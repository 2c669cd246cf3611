"""Word vectors with negative sampling from python's own documentation."""

import argparse
import re
from collections import Counter
from pydoc_data import topics

import torch
from torch import nn


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    torch.manual_seed(parser.parse_args().seed)
    words = re.findall(r"[a-z]+", " ".join(topics.topics.values()).lower())[:60000]
    counts = Counter(words).most_common(400)
    vocab = {w: i for i, (w, _) in enumerate(counts)}
    ids = torch.tensor([vocab[w] for w in words if w in vocab])
    noise = torch.tensor([c for _, c in counts], dtype=torch.float32) ** 0.75
    vectors = nn.Embedding(400, 32)
    contexts = nn.Embedding(400, 32)
    nn.init.zeros_(contexts.weight)
    opt = torch.optim.Adam([*vectors.parameters(), *contexts.parameters()], lr=1e-2)
    for step in range(500):
        at = torch.randint(3, len(ids) - 3, (256,))
        shift = torch.randint(1, 4, (256,)) * (torch.randint(0, 2, (256,)) * 2 - 1)
        center, context = ids[at], ids[at + shift]
        negative = torch.multinomial(noise, 256 * 5, replacement=True).view(256, 5)
        v = vectors(center)
        positive_score = (v * contexts(context)).sum(1)
        negative_score = (contexts(negative) @ v.unsqueeze(2)).squeeze(2)
        loss = -(nn.functional.logsigmoid(positive_score) + nn.functional.logsigmoid(-negative_score).sum(1)).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 100 == 0:
            print(step, round(loss.item(), 4))


main()
