"""The density of an operator's eigenvalues, by stochastic Lanczos quadrature."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from separatrix.operators.errors import OperatorUsageError
from separatrix.operators.estimate import TraceEstimate, summarise
from separatrix.operators.linear import Deadline, LinearOperator, as_operator, multiply, random_block, seeded

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class LanczosQuadrature:
    """Gauss quadratures of the spectral measure, one for each probe.

    `nodes` and `weights` (p, m), float64 on the CPU; the weights of a probe sum to 1. The mean over probes of
    sum(weights f(nodes)) estimates tr f(A) / n: without bias for polynomials of degree below 2 m.
    """

    nodes: Tensor
    weights: Tensor
    size: int
    products: int

    def integral(self, function: Callable[[Float[Tensor, " p m"]], Float[Tensor, " p m"]]) -> TraceEstimate:
        """Estimate of tr f(A) with the standard error over probes, for an elementwise function."""
        return summarise(self.size * (self.weights * function(self.nodes)).sum(1), self.products)


@dataclasses.dataclass(frozen=True)
class SpectralDensity:
    """Density of the eigenvalues, smoothed by a normal kernel of standard deviation `width`.

    `grid` (g,) eigenvalues; `density` (g,) per unit of eigenvalue, integrating to 1; `error` (g,) standard error over
    probes, NaN with one probe; `quadrature` holds the nodes and weights it was made of.
    """

    grid: Tensor
    density: Tensor
    error: Tensor
    width: float
    quadrature: LanczosQuadrature


def lanczos_quadrature(
    operator: LinearOperator | Tensor,
    *,
    steps: int = 100,
    probes: int = 1,
    generator: torch.Generator | None = None,
    deadline: Deadline | None = None,
) -> LanczosQuadrature:
    """Lanczos from random sign vectors, all probes in lock step, one block product a step.

    Every new vector is orthogonalised against all before it, again where that takes most of it away. `steps` is cut to
    the operator's size. Memory O(n steps probes), time O(n steps^2 probes) besides steps block products.

    Source: Golub, Welsch 1969; Ubaru, Chen, Saad 2017.

    Raises:
        OperatorUsageError: steps or probes below 1.
        NonFiniteError: a product is not finite.
    """
    operator = as_operator(operator)
    if steps < 1 or probes < 1:
        raise OperatorUsageError(f"steps={steps} and probes={probes} must both be at least 1")
    generator = seeded(generator)
    size, steps = operator.size, min(steps, operator.size)
    start = random_block(operator, probes, distribution="rademacher", generator=generator).T / math.sqrt(size)
    bases = torch.zeros(probes, steps, size, dtype=operator.dtype, device=operator.device)
    diagonal = torch.zeros(probes, steps, dtype=torch.float64)
    beside = torch.zeros(probes, steps, dtype=torch.float64)
    current, scale = start, torch.zeros(probes, dtype=operator.dtype, device=operator.device)
    for step in range(steps):
        bases[:, step] = current
        product = multiply(operator, current.T, deadline).T
        diagonal[:, step] = (current * product).double().sum(1)
        if step + 1 == steps:
            break
        scale = torch.maximum(scale, torch.linalg.vector_norm(product, dim=1))
        basis = bases[:, : step + 1]
        rest = product - diagonal[:, step, None].to(product) * current
        if step:
            rest -= beside[:, step - 1, None].to(rest) * bases[:, step - 1]
        rest = _project_out(basis, rest)
        norms = torch.linalg.vector_norm(rest, dim=1)
        ended = norms <= torch.finfo(operator.dtype).eps * 10 * math.sqrt(size) * scale
        if bool(ended.any()):
            rest[ended] = _project_out(basis, random_block(operator, probes, generator=generator).T)[ended]
        beside[:, step] = torch.where(ended, 0, norms)
        current = rest / torch.linalg.vector_norm(rest, dim=1, keepdim=True)
    tridiagonal = torch.diag_embed(diagonal)
    tridiagonal += torch.diag_embed(beside[:, : steps - 1], 1) + torch.diag_embed(beside[:, : steps - 1], -1)
    nodes, vectors = torch.linalg.eigh(tridiagonal)
    return LanczosQuadrature(nodes, vectors[:, 0].square(), size, steps * probes)


def spectral_density(
    operator: LinearOperator | Tensor,
    steps: int = 100,
    *,
    probes: int = 1,
    grid: int | Float[Tensor, " g"] = 1024,
    width: float | None = None,
    generator: torch.Generator | None = None,
    deadline: Deadline | None = None,
) -> SpectralDensity:
    """Density of the eigenvalues of a symmetric operator.

    `grid` is a number of points over the range of the nodes and four widths beyond, or the points. `width` of the
    kernel defaults to a hundredth of that range (1 where all eigenvalues are equal and 0, a hundredth of the
    eigenvalue where equal and not). Costs as `lanczos_quadrature`.

    Raises:
        OperatorUsageError: steps or probes below 1, or a width that is not positive.
        NonFiniteError: a product is not finite.
    """
    quadrature = lanczos_quadrature(operator, steps=steps, probes=probes, generator=generator, deadline=deadline)
    lowest, highest = float(quadrature.nodes.min()), float(quadrature.nodes.max())
    if width is None:
        width = (highest - lowest) / 100 or max(abs(lowest), abs(highest)) / 100 or 1.0
    if not width > 0:
        raise OperatorUsageError(f"width={width} must be positive: it is the kernel's standard deviation")
    if isinstance(grid, int):
        grid = torch.linspace(lowest - 4 * width, highest + 4 * width, grid, dtype=torch.float64)
    points = grid.to("cpu", torch.float64)
    densities = torch.stack(
        [
            torch.exp(-((points[:, None] - nodes) ** 2) / (2 * width**2)) @ weights / (width * math.sqrt(2 * math.pi))
            for nodes, weights in zip(quadrature.nodes, quadrature.weights, strict=True)
        ]
    )
    error = densities.std(0) / math.sqrt(probes) if probes > 1 else torch.full_like(points, math.nan)
    return SpectralDensity(points, densities.mean(0), error, width, quadrature)


def _project_out(bases: Float[Tensor, " p m n"], vectors: Float[Tensor, " p n"]) -> Float[Tensor, " p n"]:
    """What of the vectors is orthogonal to the bases, to rounding error of the result."""
    before = torch.linalg.vector_norm(vectors, dim=1)
    for _ in range(2):
        coefficients = torch.einsum("pmn,pn->pm", bases, vectors)
        vectors = vectors - torch.einsum("pmn,pm->pn", bases, coefficients)
        # enough where little was taken away: rounding error has not grown beside what is left
        if bool((torch.linalg.vector_norm(vectors, dim=1) >= 0.5 * before).all()):
            break
    return vectors
