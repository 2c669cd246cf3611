"""Recovery of a low-rank matrix from Gaussian linear measurements."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.tasks.task import Batch, Seed, Task, check, count, drawing, number, whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatrixSensing(Task):
    """Inputs A with entries from N(0, 1), targets <A, M> + noise: how many are sampled is how many are measured.

    M has `rank` singular values, from 1 down to 1 / `condition` in equal ratios, and singular vectors drawn by `seed`;
    it is positive semi-definite where `symmetric`. M is the population optimum, with mean squared error noise^2: the
    mean squared error of another matrix is larger by its squared distance from M.
    """

    name: ClassVar[str] = "matrix_sensing"
    source: ClassVar[str] = "Xiong, Ding and Du 2023, arXiv:2310.01769; Jin et al. 2023, arXiv:2301.11500"

    rows: int = 50
    columns: int = 50
    rank: int = 3
    condition: float = 2.0
    noise: float = 0.0
    symmetric: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "rows", 1)
        whole(self, "columns", 1)
        whole(self, "rank", 1, min(self.rows, self.columns))
        number(self, "condition", 1.0)
        number(self, "noise", 0.0)
        check(self, "symmetric", not self.symmetric or self.rows == self.columns, "False unless rows equal columns")

    @functools.cached_property
    def singular_values(self) -> Float[Tensor, " rank"]:
        """Those of M that are not 0, largest first; a single one is 1."""
        place = torch.arange(self.rank, dtype=self.dtype) / max(1, self.rank - 1)
        return self.condition**-place

    @functools.cached_property
    def matrix(self) -> Float[Tensor, "rows columns"]:
        """The matrix M."""
        generator = self._structure()
        left = _frame(self.rows, self.rank, generator)
        right = left if self.symmetric else _frame(self.columns, self.rank, generator)
        return (left * self.singular_values.double() @ right.T).to(self.dtype)

    def risk(self, estimate: Float[Tensor, "rows columns"]) -> Float[Tensor, ""]:
        """Exact mean squared error of an estimate over the population, noise included."""
        return (estimate - self.matrix).square().sum() + self.noise**2

    def sample(self, n: int, generator: Seed) -> Batch:
        """Draw n measurements: inputs (n, rows, columns), targets (n,)."""
        draw = drawing(generator)
        inputs = torch.randn(count(n), self.rows, self.columns, dtype=self.dtype, generator=draw)
        noise = torch.randn(n, dtype=self.dtype, generator=draw)
        return Batch(inputs, inputs.flatten(1) @ self.matrix.flatten() + self.noise * noise)


def _frame(size: int, width: int, generator: torch.Generator) -> Tensor:
    """Orthonormal columns, uniformly distributed."""
    draws = torch.randn(size, width, dtype=torch.float64, generator=generator)
    frame, upper = torch.linalg.qr(draws)
    signed: Tensor = frame * upper.diagonal().sign()
    return signed


matrix_sensing = MatrixSensing()
