"""Sparse parity: the class is the product of a few hidden coordinates among many."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from separatrix.tasks.task import Batch, Seed, Task, count, drawing, number, whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity(Task):
    """Inputs uniform on {-1, 1}^dimension, (n, dimension); the target counts modulo 2 the -1 among `support`.

    `support` holds `order` coordinates drawn by `seed`; order 2 is XOR, order 1 linear. Each label is flipped with
    probability `flip`, which is the Bayes error; without flips the population optimum has loss 0. Statistical-query
    methods need of the order of dimension^order queries.
    """

    name: ClassVar[str] = "parity"
    source: ClassVar[str] = "Barak et al. 2022, arXiv:2207.08799"

    dimension: int = 30
    order: int = 3
    flip: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "dimension", 1)
        whole(self, "order", 1, self.dimension)
        number(self, "flip", 0.0, 0.5)

    @functools.cached_property
    def support(self) -> tuple[int, ...]:
        """The coordinates that matter, in increasing order."""
        order = torch.randperm(self.dimension, generator=self._structure())
        return tuple(sorted(order[: self.order].tolist()))

    @property
    def bayes_error(self) -> float:
        """The smallest error any classifier can have."""
        return self.flip

    def label(self, inputs: Float[Tensor, " n dimension"]) -> Int[Tensor, " n"]:
        """The class of each input before flips."""
        return (inputs[:, list(self.support)] < 0).sum(1) % 2

    def sample(self, n: int, generator: Seed) -> Batch:
        """Draw n examples."""
        draw = drawing(generator)
        inputs = 2.0 * torch.randint(2, (count(n), self.dimension), generator=draw).to(self.dtype) - 1.0
        flips = torch.rand(n, dtype=torch.float64, generator=draw) < self.flip
        return Batch(inputs, (self.label(inputs) + flips) % 2)


default = Parity()
