"""Gradient descent on factors of a matrix that is seen through random measurements; copies in one computation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch

from separatrix.tasks import MatrixSensing

_CHUNK = 2048  # measurements held at once


@dataclasses.dataclass(frozen=True)
class Measurements:
    """The mean of A <A, .> over measurements, as `gram` (p, p) on matrices written as vectors, and M itself.

    Of a symmetric problem only the symmetric part of A is kept, p = n (n + 1) / 2; otherwise p = n m.
    """

    gram: torch.Tensor
    matrix: torch.Tensor
    symmetric: bool

    def vector(self, matrices: torch.Tensor) -> torch.Tensor:
        """Matrices (..., n, m) as vectors (..., p) with the same inner product; symmetric ones if the problem is."""
        if not self.symmetric:
            return matrices.flatten(-2)
        rows, columns, scale = self._upper()
        return matrices[..., rows, columns] * scale

    def back(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors (..., p) as matrices (..., n, m)."""
        if not self.symmetric:
            return vectors.reshape(*vectors.shape[:-1], *self.matrix.shape)
        rows, columns, scale = self._upper()
        found = vectors.new_zeros(*vectors.shape[:-1], *self.matrix.shape)
        found[..., rows, columns] = found[..., columns, rows] = vectors / scale
        return found

    def _upper(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows, columns = torch.triu_indices(*self.matrix.shape)
        return rows, columns, torch.where(rows == columns, 1.0, 2.0).double().sqrt()

    def push(self, matrices: torch.Tensor) -> torch.Tensor:
        """Mean of A <A, M - matrices>, (..., n, m): minus the gradient by the matrix of half the mean squared error."""
        return self.back(self.vector(self.matrix - matrices) @ self.gram)


def measured(task: MatrixSensing, count: int, generator: torch.Generator) -> Measurements:
    """What so many measurements without noise of the task's matrix see."""
    blank = Measurements(torch.zeros(()), task.matrix, task.symmetric)
    gram = blank.gram
    for begin in range(0, count, _CHUNK):
        inputs = task.sample(min(_CHUNK, count - begin), generator).inputs
        rows = blank.vector((inputs + inputs.mT) / 2 if task.symmetric else inputs)
        gram = gram + rows.T @ rows / count
    return dataclasses.replace(blank, gram=gram)


def descend_one(
    seen: Measurements, start: torch.Tensor, rate: float, steps: int, look: Callable[[int, torch.Tensor], object]
) -> None:
    """Gradient descent on mean (<A, X X'> - y)^2 / 4; `look(step, X)` at steps 0 to `steps`; X (..., n, k)."""
    factor = start
    for step in range(steps + 1):
        look(step, factor)
        if step < steps:
            factor = factor + rate * seen.push(factor @ factor.mT) @ factor


def descend_two(
    seen: Measurements,
    start: Sequence[torch.Tensor],
    rate: float,
    steps: int,
    look: Callable[[int, torch.Tensor, torch.Tensor], object],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient descent on mean (<A, F G'> - y)^2 / 2; `look(step, F, G)` at steps 0 to `steps`; the last factors."""
    left, right = start
    for step in range(steps + 1):
        look(step, left, right)
        if step < steps:
            push = seen.push(left @ right.mT)
            left, right = left + rate * push @ right, right + rate * push.mT @ left
    return left, right


def hessian(seen: Measurements, left: torch.Tensor, right: torch.Tensor | None) -> torch.Tensor:
    """Of the loss of `descend_one` or `descend_two` at factors of M itself, over all entries of the factors."""

    def units(factor: torch.Tensor) -> torch.Tensor:
        return torch.eye(factor.numel(), dtype=factor.dtype).view(-1, *factor.shape)

    if right is None:
        moved = units(left) @ left.mT
        rows = seen.vector(moved + moved.mT) / math.sqrt(2)
    else:
        rows = seen.vector(torch.cat([units(left) @ right.mT, left @ units(right).mT]))
    return rows @ seen.gram @ rows.mT


def slowest(seen: Measurements, rank: int, left: torch.Tensor, right: torch.Tensor | None) -> float:
    """Smallest eigenvalue of the Hessian at factors of M that is not 0 by symmetry; `left` has full column rank."""
    rows, columns = left.shape
    if right is None:
        curved = rows * columns - columns * (columns - 1) // 2
    else:
        curved = len(right) * columns + (rows - columns) * rank
    return float(torch.linalg.eigvalsh(hessian(seen, left, right))[-curved])
