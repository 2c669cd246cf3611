"""Extreme eigenpairs by block Lanczos or LOBPCG, from cold or from the eigenvectors of a step before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from separatrix.operators.errors import OperatorUsageError
from separatrix.operators.linear import (
    Deadline,
    LinearOperator,
    as_operator,
    multiply,
    orthonormal,
    random_block,
    seeded,
)
from separatrix.operators.lobpcg import lobpcg_coordinates

if TYPE_CHECKING:
    from jaxtyping import Float

Which = Literal["largest", "magnitude", "both ends"]
_KEPT_BEYOND = 4


@dataclasses.dataclass(frozen=True)
class Eigenpairs:
    """Approximate eigenpairs with measured residuals.

    `values` (k,) float64 on the CPU, from the largest down (by absolute value for `magnitude`); `vectors` (n, k)
    orthonormal columns; `residuals` (k,) |A v - lambda v| / max(|lambda|, sqrt(eps) max|lambda|), with eps of the
    operator's dtype: some eigenvalue of A is within residual times that scale of lambda. `products` counts every
    vector multiplied; `converged` tells whether all residuals are within tolerance.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int
    converged: bool


@dataclasses.dataclass(frozen=True)
class _Subspace:
    """An orthonormal basis (n, m), its image under the operator, and the operator projected on it (m, m) in float64."""

    basis: Tensor
    image: Tensor
    projected: Tensor

    @property
    def columns(self) -> int:
        return self.basis.shape[1]

    def extended(self, fresh: Float[Tensor, " n j"], image: Float[Tensor, " n j"]) -> _Subspace:
        """The subspace with more basis vectors, orthonormal and orthogonal to it."""
        basis = torch.cat([self.basis, fresh], dim=1)
        border = (basis.T @ image).double().cpu()
        across, corner = border[: self.columns], border[self.columns :]
        top = torch.cat([self.projected, across], dim=1)
        projected = torch.cat([top, torch.cat([across.T, (corner + corner.T) / 2], dim=1)])
        return _Subspace(basis, torch.cat([self.image, image], dim=1), projected)

    def rotated(self, coordinates: Float[Tensor, " m j"]) -> _Subspace:
        """The part of the subspace that orthonormal coordinates span, made orthonormal anew."""
        rotation = coordinates.to(self.basis)
        basis, triangle = torch.linalg.qr(self.basis @ rotation)
        image = torch.linalg.solve_triangular(triangle, self.image @ rotation, upper=True, left=False)
        projected = (basis.T @ image).double().cpu()
        return _Subspace(basis, image, (projected + projected.T) / 2)

    def ritz(self, count: int, which: Which) -> tuple[Tensor, Tensor]:
        """Values (j,) and coordinates (m, j) of the first `count` Ritz pairs in the wanted order."""
        values, coordinates = torch.linalg.eigh(self.projected)
        wanted = _wanted(values, min(count, self.columns), which)
        return values[wanted], coordinates[:, wanted]

    def residuals(self, values: Float[Tensor, " j"], coordinates: Float[Tensor, " m j"]) -> Float[Tensor, " n j"]:
        """A v - lambda v of Ritz pairs."""
        rotation = coordinates.to(self.basis)
        return self.image @ rotation - (self.basis @ rotation) * values.to(self.basis)


def top_eigenpairs(
    operator: LinearOperator | Tensor,
    k: int,
    *,
    method: Literal["lanczos", "lobpcg"] = "lanczos",
    tolerance: float = 1e-2,
    start: Float[Tensor, " n s"] | None = None,
    which: Which = "largest",
    block: int | None = None,
    max_basis: int | None = None,
    max_products: int | None = None,
    verify: bool = False,
    generator: torch.Generator | None = None,
    deadline: Deadline | None = None,
) -> Eigenpairs:
    """The k largest eigenpairs of a symmetric operator, or the k at both ends (one more at the top for odd k).

    `lanczos` extends a Krylov basis by blocks with full re-orthogonalisation, and restarts from its best Ritz vectors
    when `max_basis` columns are reached (default 4 k + 40). `lobpcg` keeps only the current vectors, their residuals
    and the last directions: at most 3 max(k, block) columns, for models of which few vectors fit in memory, at the
    price of more products. Both keep a basis and its image: 2 n columns numbers.

    `start` holds vectors near the wanted ones, as the previous step's; they cost s products, and only pairs whose
    residual is above tolerance are refined. `block` vectors are multiplied at a time (default 1 for Lanczos, where a
    wider one needs more products, k for LOBPCG). Multiple eigenvalues need a block as wide as their multiplicity or
    random luck. After `max_products` products (default 40 k + 200) the best pairs so far are returned with
    `converged` false.

    Residuals are computed from the vectors' own products, which the basis carries along, not from a recurrence: they
    are exact to rounding error. With `verify` they are measured anew, at k more products.

    Sources: Golub, Underwood 1977; Wu, Simon 2000 (thick restart); Knyazev 2001 and Hetmaniuk, Lehoucq 2006 (LOBPCG).

    Raises:
        OperatorUsageError: k outside 1..n, a start of another size or without a column, unknown method or `which`.
        NonFiniteError: a product is not finite.
    """
    operator = as_operator(operator)
    _check(operator, k, method, which, start)
    size, generator = operator.size, seeded(generator)
    width = min(block or (k if method == "lobpcg" else 1), size)
    columns = max(max_basis or 4 * k + 40, k + _KEPT_BEYOND + width)
    budget = 40 * k + 200 if max_products is None else max_products

    basis = orthonormal(_start(operator, start, width, generator))
    space = _Subspace(basis[:, :0], basis[:, :0], torch.zeros(0, 0, dtype=torch.float64))
    fresh, products, current = basis, 0, 0
    while fresh.shape[1]:
        space = space.extended(fresh, multiply(operator, fresh, deadline))
        products += fresh.shape[1]
        values, coordinates = space.ritz(k, which)
        if products >= budget or space.columns == size:
            break
        fresh = _next_directions(space, values, coordinates, k, width, tolerance, generator)
        if method == "lobpcg":
            _, kept = space.ritz(max(k, width), which)
            space, current = space.rotated(lobpcg_coordinates(kept, current)), kept.shape[1]
        elif space.columns + fresh.shape[1] > columns:
            space = space.rotated(space.ritz(k + _KEPT_BEYOND, which)[1])
    again = (lambda vectors: multiply(operator, vectors, deadline)) if verify else None
    return _measured(space, k, which, tolerance, products, again)


def _check(operator: LinearOperator, k: int, method: str, which: str, start: Tensor | None) -> None:
    size = operator.size
    if not 1 <= k <= size:
        raise OperatorUsageError(f"k={k} eigenpairs of an operator of size {size}: ask for 1 to {size}")
    if method not in ("lanczos", "lobpcg"):
        raise OperatorUsageError(f"unknown method {method!r}: use 'lanczos' or 'lobpcg'")
    if which not in ("largest", "magnitude", "both ends"):
        raise OperatorUsageError(f"unknown which={which!r}: use 'largest', 'magnitude' or 'both ends'")
    if start is not None and (start.ndim != 2 or start.shape[0] != size or start.shape[1] == 0):
        raise OperatorUsageError(f"start has shape {tuple(start.shape)}: pass columns, ({size}, s)")
    if start is not None and not bool(torch.isfinite(start).all()):
        raise OperatorUsageError("start has non-finite entries: leave it out")


def _start(operator: LinearOperator, start: Tensor | None, width: int, generator: torch.Generator) -> Tensor:
    if start is None or not bool(start.any()):
        return random_block(operator, width, generator=generator)
    return start.detach().to(operator.device, operator.dtype)


def _wanted(values: Float[Tensor, " m"], count: int, which: Which) -> Tensor:
    """Positions of the wanted ones among ascending values, in the order of the result."""
    if which == "magnitude":
        return values.abs().argsort(descending=True)[:count]
    order = torch.arange(len(values) - 1, -1, -1)
    if which == "largest":
        return order[:count]
    low = count // 2
    return torch.cat([order[: count - low], order[len(values) - low :]])


def _scales(values: Float[Tensor, " k"], dtype: torch.dtype) -> Float[Tensor, " k"]:
    """What residuals are relative to; 1 where all values are 0."""
    largest = float(values.abs().max())
    return values.abs().clamp(min=torch.finfo(dtype).eps ** 0.5 * largest) if largest else torch.ones_like(values)


def _next_directions(
    space: _Subspace,
    values: Tensor,
    coordinates: Tensor,
    k: int,
    width: int,
    tolerance: float,
    generator: torch.Generator,
) -> Tensor:
    """Residuals of the first pairs that have not converged; random directions where pairs are still missing."""
    residuals = space.residuals(values, coordinates)
    norms = torch.linalg.vector_norm(residuals, dim=0).double().cpu()
    pending = norms > tolerance * _scales(values, space.basis.dtype)
    fresh = orthonormal(residuals[:, pending][:, :width], space.basis)
    if fresh.shape[1] == 0 and space.columns < k:
        random = torch.randn(len(space.basis), k - space.columns, generator=generator, device=generator.device)
        fresh = orthonormal(random.to(space.basis), space.basis)
    return fresh


def _measured(
    space: _Subspace, k: int, which: Which, tolerance: float, products: int, again: Callable[[Tensor], Tensor] | None
) -> Eigenpairs:
    """The best pairs of a subspace with residuals from the products it holds, or from one more block product."""
    best = space.rotated(space.ritz(k, which)[1])
    if again is not None:
        empty = _Subspace(best.basis[:, :0], best.basis[:, :0], torch.zeros(0, 0, dtype=torch.float64))
        best, products = empty.extended(best.basis, again(best.basis)), products + best.columns
    values, rotation = best.ritz(k, which)
    norms = torch.linalg.vector_norm(best.residuals(values, rotation), dim=0).double().cpu()
    residuals = norms / _scales(values, best.basis.dtype)
    converged = bool((residuals <= tolerance).all()) and len(values) == k
    return Eigenpairs(values, best.basis @ rotation.to(best.basis), residuals, products, converged)
