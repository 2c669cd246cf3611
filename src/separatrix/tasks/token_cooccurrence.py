"""Pairs of tokens that occur together, with a joint distribution whose log-ratio has low rank and exact marginals."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.tasks.errors import TaskError
from separatrix.tasks.task import Batch, Seed, Task, count, drawing, number, whole

_MOST_ROUNDS = 10_000
_EXACT = 1e-13


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenCooccurrence(Task):
    """Inputs (n,) are tokens, targets (n,) tokens seen near them; both are numbers below `tokens`.

    Token i has the frequency p_i, proportional to (i + 1)^-zipf. The joint distribution is
    P_ij = a_i a_j exp(strength u_i.u_j) with vectors u_i of `rank` entries, independent and normal of variance
    1 / rank, drawn by `seed`; the a_i are those that make its marginals p (the Sinkhorn scaling, unique for a positive
    matrix). What skip-gram with k negative samples fits with unlimited vectors is `information` less log k.
    """

    name: ClassVar[str] = "token_cooccurrence"
    source: ClassVar[str] = "Mikolov et al. 2013, arXiv:1310.4546; Levy & Goldberg 2014; Sinkhorn 1967"

    tokens: int = 64
    rank: int = 4
    strength: float = 1.5
    zipf: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "tokens", 2)
        whole(self, "rank", 1)
        number(self, "strength", 0.0)
        number(self, "zipf", 0.0)

    @functools.cached_property
    def frequencies(self) -> Float[Tensor, " tokens"]:
        """p_i, in float64."""
        weights = torch.arange(1, self.tokens + 1, dtype=torch.float64) ** -self.zipf
        return weights / weights.sum()

    @functools.cached_property
    def vectors(self) -> Float[Tensor, "tokens rank"]:
        """u_i, in float64."""
        drawn = torch.randn(self.tokens, self.rank, dtype=torch.float64, generator=self._structure())
        return drawn / math.sqrt(self.rank)

    @functools.cached_property
    def joint(self) -> Float[Tensor, "tokens tokens"]:
        """P, symmetric, in float64.

        Raises:
            TaskError: the scaling was not found, because `strength` makes some pairs too unlikely for float64.
        """
        products = self.strength * self.vectors @ self.vectors.T
        # Up to factors of rows and columns, exp(-|u_i - u_j|^2 / 2): nothing overflows.
        diagonal = products.diagonal() / 2
        kernel = (products - diagonal[:, None] - diagonal).exp()
        scale = self.frequencies.clone()
        for _ in range(_MOST_ROUNDS):
            reached = scale * (kernel @ scale)
            if float((reached / self.frequencies - 1).abs().max()) < _EXACT:
                joint = scale[:, None] * kernel * scale
                if bool((joint > 0).all()):
                    return (joint + joint.T) / 2
                break
            scale = scale * (self.frequencies / reached).sqrt()
        raise TaskError(f"no joint distribution was found at strength={self.strength:g}: choose a smaller one")

    @property
    def information(self) -> Float[Tensor, "tokens tokens"]:
        """Pointwise mutual information log P_ij / (p_i p_j), nats; centred by rows and columns it has rank `rank`."""
        return self.joint.log() - self.frequencies.log()[:, None] - self.frequencies.log()

    @property
    def mutual_information(self) -> float:
        """Mean of `information` over pairs, nats."""
        return float((self.joint * self.information).sum())

    @property
    def bayes_loss(self) -> float:
        """Least cross-entropy of the neighbour given the token, nats: its conditional entropy."""
        return float(-(self.joint * (self.joint.log() - self.frequencies.log()[:, None])).sum())

    @property
    def bayes_error(self) -> float:
        """Least share of wrong guesses of the neighbour."""
        return 1.0 - float(self.joint.amax(1).sum())

    def sample(self, n: int, generator: Seed) -> Batch:
        """Draw n pairs, independently."""
        pairs = torch.multinomial(self.joint.flatten(), count(n), replacement=True, generator=drawing(generator))
        return Batch(pairs // self.tokens, pairs % self.tokens)


default = TokenCooccurrence()
