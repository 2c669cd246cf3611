"""The composition of two elements of a finite group, of which a net sees a share of all pairs."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from separatrix.tasks.task import Batch, Seed, Task, choice, count, drawing, number, whole

Group = Literal["cyclic", "dihedral", "symmetric"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupArithmetic(Task):
    """Pairs (a, b) of element numbers, (n, 2); the class is the number of their product a b.

    `cyclic` is addition modulo `order`; `dihedral` are the 2 `order` symmetries of a polygon, turns first; `symmetric`
    the permutations of `order` things, at most 6, in lexical order, where a b applies b first. `seed` draws the `share`
    of all pairs that make `train`, and the share `corrupted` of those whose class is another one, drawn evenly; the
    other pairs are `test`. Element 0 is the identity.
    """

    name: ClassVar[str] = "group_arithmetic"
    source: ClassVar[str] = "Power et al. 2022, arXiv:2201.02177; Nanda et al. 2023, arXiv:2301.05217"

    group: Group = "cyclic"
    order: int = 31
    share: float = 0.5
    corrupted: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        choice(self, "group", ("cyclic", "dihedral", "symmetric"))
        whole(self, "order", 2, 6 if self.group == "symmetric" else None)
        number(self, "share", 0.0, 1.0, above=True)
        number(self, "corrupted", 0.0, 1.0)

    @property
    def elements(self) -> int:
        """How many elements the group has, and so classes."""
        return {"cyclic": self.order, "dihedral": 2 * self.order, "symmetric": math.factorial(self.order)}[self.group]

    @functools.cached_property
    def table(self) -> Int[Tensor, "elements elements"]:
        """The number of the product a b in row a and column b."""
        if self.group == "symmetric":
            return _permutations(self.order)
        numbers = torch.arange(self.elements)
        turns, flipped = numbers % self.order, numbers // self.order
        sign = 1 - 2 * flipped
        turned = (turns[:, None] + sign[:, None] * turns) % self.order
        return turned + self.order * (flipped[:, None] ^ flipped)

    @functools.cached_property
    def pairs(self) -> Batch:
        """All pairs, b running fastest, with their true classes."""
        numbers = torch.arange(self.elements)
        return Batch(torch.cartesian_prod(numbers, numbers), self.table.flatten())

    @functools.cached_property
    def _split(self) -> tuple[Batch, Batch, Tensor]:
        draw = self._structure()
        order = torch.randperm(len(self.pairs.targets), generator=draw)
        seen = max(1, round(self.share * len(order)))
        train, test = self.pairs.rows(order[:seen]), self.pairs.rows(order[seen:])
        wrong = torch.zeros(seen, dtype=torch.bool)
        wrong[: round(self.corrupted * seen)] = True
        shift = torch.randint(1, self.elements, (seen,), generator=draw)
        return (
            Batch(train.inputs, torch.where(wrong, train.targets + shift, train.targets) % self.elements),
            test,
            wrong,
        )

    @property
    def train(self) -> Batch:
        """The pairs seen, in random order, some with a wrong class."""
        return self._split[0]

    @property
    def test(self) -> Batch:
        """All other pairs."""
        return self._split[1]

    @property
    def wrong(self) -> Bool[Tensor, " n"]:
        """Which rows of `train` have a wrong class."""
        return self._split[2]

    def sample(self, n: int, generator: Seed) -> Batch:
        """Draw n rows of `train` with replacement."""
        return self.train.rows(torch.randint(len(self.train.targets), (count(n),), generator=drawing(generator)))


def _permutations(order: int) -> Int[Tensor, "elements elements"]:
    every = torch.tensor(list(itertools.permutations(range(order))))
    digits = order ** torch.arange(order)
    numbers = torch.empty(order**order, dtype=torch.int64)
    numbers[every @ digits] = torch.arange(len(every))
    return numbers[every[:, every] @ digits]


default = GroupArithmetic()
