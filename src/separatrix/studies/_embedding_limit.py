"""A word2vec-like net of two linear layers, and its training at infinite width, computed exactly.

Word j has the embedding U e_j in n dimensions and word i the readout row V e_i / n, so that the logits are V'U / n, all
entries of U and V drawn from N(0, 1). Gradient descent keeps every column of U and V in the span of the columns at the
start. As n grows these become orthogonal with squared length n, so that the limit is a net of as many dimensions as
there are columns, which starts from unit vectors: as exact as its arithmetic, without a width.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.tasks import SourceText


@dataclasses.dataclass(frozen=True)
class Pairs:
    """How often a character follows another, as shares (characters, characters) that sum to 1: row follows column."""

    shares: Float[Tensor, "words words"]

    def loss(self, logits: Float[Tensor, "... words words"]) -> Float[Tensor, ...]:
        """Cross-entropy of successors, nats; columns of logits belong to the given character."""
        return -(self.shares * logits.log_softmax(-2)).sum((-2, -1))

    def slope(self, logits: Float[Tensor, "... words words"]) -> Float[Tensor, "... words words"]:
        """The gradient of the loss in the logits."""
        return logits.softmax(-2) * self.shares.sum(0) - self.shares


def character_pairs(words: int) -> Pairs:
    """Pairs of neighbours in source text, of its `words` most frequent characters."""
    text = SourceText(length=64).train[:400_000]
    kept = torch.bincount(text, minlength=int(text.max()) + 1).topk(words).indices
    index = torch.full((int(text.max()) + 1,), -1)
    index[kept] = torch.arange(words)
    given, following = index[text[:-1]], index[text[1:]]
    inside = (given >= 0) & (following >= 0)
    counts = torch.bincount(following[inside] * words + given[inside], minlength=words * words).double()
    return Pairs((counts / counts.sum()).view(words, words))


def limit_losses(pairs: Pairs, rates: Float[Tensor, " rates"], steps: int) -> Float[Tensor, "steps rates"]:
    """Losses of the infinitely wide net before each step of gradient descent, for several rates at once.

    The rate is that of the maximal update: both layers move by the rate times n times their gradient.
    """
    words = len(pairs.shares)
    unit = torch.eye(2 * words, dtype=torch.float64)
    inputs, outputs = unit[:, :words].expand(len(rates), -1, -1), unit[:, words:].expand(len(rates), -1, -1)
    losses = []
    for _ in range(steps):
        logits = outputs.mT @ inputs
        losses.append(pairs.loss(logits))
        slope = rates[:, None, None] * pairs.slope(logits)
        inputs, outputs = inputs - outputs @ slope, outputs - inputs @ slope.mT
    return torch.stack(losses)


def kernel_losses(pairs: Pairs, rates: Float[Tensor, " rates"], steps: int) -> Float[Tensor, "steps rates"]:
    """Losses of the infinitely wide net under the neural-tangent parametrization: logits follow a fixed kernel.

    Embeddings stay where they start; from zero logits each column moves by what both layers add, twice its slope. The
    start's own logits, of variance 1, are left out, as one takes the mean over starts.
    """
    words = len(pairs.shares)
    logits = torch.zeros(len(rates), words, words, dtype=torch.float64)
    losses = []
    for _ in range(steps):
        losses.append(pairs.loss(logits))
        logits = logits - 2 * rates[:, None, None] * pairs.slope(logits)
    return torch.stack(losses)
