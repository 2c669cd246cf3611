"""What the estimators ask of a symmetric matrix: size, dtype, device, and products with blocks of vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from separatrix.operators.errors import NonFiniteError, OperatorUsageError

if TYPE_CHECKING:
    from jaxtyping import Float

Deadline = Callable[[], None]
"""Called between products; what it raises ends the computation and reaches the caller."""


@runtime_checkable
class LinearOperator(Protocol):
    """A real symmetric (n, n) matrix known by its products."""

    @property
    def size(self) -> int:
        """Number of rows n."""

    @property
    def dtype(self) -> torch.dtype:
        """Floating dtype of the products."""

    @property
    def device(self) -> torch.device:
        """Device of the products."""

    def __matmul__(self, other: Tensor, /) -> Tensor:
        """Product with a vector (n,) or a block (n, k)."""


@dataclasses.dataclass(frozen=True)
class DenseOperator:
    """An explicit symmetric matrix (n, n) as an operator.

    Raises:
        OperatorUsageError: the matrix is not a square, symmetric, floating one.
        NonFiniteError: it has non-finite entries.
    """

    matrix: Tensor

    def __post_init__(self) -> None:
        matrix = self.matrix
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.is_floating_point():
            raise OperatorUsageError(
                f"a matrix of shape {tuple(matrix.shape)} and dtype {matrix.dtype} is no operator:"
                " pass a square floating one"
            )
        if not bool(torch.isfinite(matrix).all()):
            raise NonFiniteError("the matrix has non-finite entries: find out where they come from")
        if matrix.numel() and bool((matrix - matrix.T).abs().max() > 1e-4 * matrix.abs().max()):
            raise OperatorUsageError("the matrix is not symmetric: pass (A + A.T) / 2 if that is meant")

    @property
    def size(self) -> int:
        """Number of rows n."""
        return len(self.matrix)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the matrix."""
        return self.matrix.dtype

    @property
    def device(self) -> torch.device:
        """Device of the matrix."""
        return self.matrix.device

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.matrix @ other


def as_operator(matrix: LinearOperator | Tensor) -> LinearOperator:
    """The operator itself, or a dense symmetric matrix wrapped as one."""
    return DenseOperator(matrix) if isinstance(matrix, Tensor) else matrix


def multiply(
    operator: LinearOperator, block: Float[Tensor, " n k"], deadline: Deadline | None = None
) -> Float[Tensor, " n k"]:
    """Product with a block, the deadline asked first.

    Raises:
        NonFiniteError: the product has non-finite entries.
    """
    if deadline is not None:
        deadline()
    product = operator @ block
    if not bool(torch.isfinite(product).all()):
        raise NonFiniteError(
            "a product with the operator is not finite: the loss or model has an infinite second derivative at these"
            " parameters (square root, norm or logarithm at 0), or overflows; use float64 or smooth it"
        )
    return product


def seeded(generator: torch.Generator | None) -> torch.Generator:
    """The generator, or a new one that always draws the same numbers; the global random state stays as it is."""
    return torch.Generator().manual_seed(0) if generator is None else generator


def random_block(
    operator: LinearOperator,
    count: int,
    *,
    distribution: Literal["normal", "rademacher"] = "normal",
    generator: torch.Generator,
) -> Float[Tensor, " n count"]:
    """Independent random columns with entries of mean 0 and variance 1, drawn on the generator's device."""
    shape = (operator.size, count)
    if distribution == "normal":
        drawn = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)
    else:
        drawn = torch.randint(0, 2, shape, generator=generator, device=generator.device).double() * 2 - 1
    return drawn.to(operator.device, operator.dtype)


def orthonormal(block: Float[Tensor, " n k"], basis: Float[Tensor, " n m"] | None = None) -> Float[Tensor, " n j"]:
    """Orthonormal basis of the block's columns orthogonal to `basis`; columns that depend on others are left out.

    Projects twice, so that orthogonality holds to rounding error. O(n k (k + m)).
    """
    norms = torch.linalg.vector_norm(block, dim=0)
    block = block[:, norms > 0] / norms[norms > 0]
    for _ in range(2):
        if block.shape[1] == 0:
            break
        if basis is not None and basis.shape[1]:
            block = block - basis @ (basis.T @ block)
        factor, triangle = torch.linalg.qr(block)
        small = torch.finfo(block.dtype).eps * 10 * max(block.shape) ** 0.5
        block = factor[:, triangle.diagonal().abs() > small]
    return block
