"""Weights as matrices: spectral norms, stable rank, and how far and along what path they travel from their start."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from separatrix.probes._features import is_finite
from separatrix.probes._tensors import local, root_mean_squares
from separatrix.runs.errors import UsageError

EXACT_SIZE = 128
"""Up to this many rows or columns all singular values are computed, which costs less than many products."""

_FRESH = 0.1
"""Part of a fixed random direction mixed into a warm start, so that a direction that overtakes is seen."""


def as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """A weight of two or more dims as (outputs, inputs), float32 or wider: a convolution's kernel is flattened.

    Raises:
        UsageError: fewer than two dims or no entries.
    """
    weight = local(weight.detach())
    if weight.dim() < 2 or not weight.numel() or not weight.is_floating_point():
        raise UsageError(
            f"weight has shape {tuple(weight.shape)} and dtype {weight.dtype}:"
            " spectra are for floating-point weights of two or more dims."
        )
    matrix = weight.flatten(1)
    return matrix if matrix.dtype == torch.float64 else matrix.to(torch.float32)


@dataclasses.dataclass(frozen=True)
class WeightSpectrum:
    """Size of a weight matrix (m, n), as scalars of its dtype.

    Attributes:
        spectral_norm: largest singular value; by power iteration never above it but for rounding.
        frobenius_norm: root of the sum of squares.
        residual: ||W'u - s v|| / s: some singular value lies within this part of `spectral_norm`; zero if exact.
        direction: (n,) right singular vector, to start the next call from; None if exact.
    """

    spectral_norm: torch.Tensor
    frobenius_norm: torch.Tensor
    residual: torch.Tensor
    direction: torch.Tensor | None

    @property
    def stable_rank(self) -> torch.Tensor:
        """Squared Frobenius over squared spectral norm: between 1 and the rank; NaN for a matrix of zeros."""
        return (self.frobenius_norm / self.spectral_norm).square()


def weight_spectrum(
    weight: torch.Tensor, start: torch.Tensor | None = None, *, tolerance: float = 1e-3, most_products: int = 200
) -> WeightSpectrum:
    """Spectral and Frobenius norm of a weight, flattened to (outputs, inputs). Give W - W(0) for those of the change.

    Exact up to 128 rows or columns. Beyond, power iteration with W'W from `start` (the `direction` of an earlier call;
    else a fixed random vector, drawn from a generator of its own) until `residual` is at most `tolerance` or
    `most_products` products with W and W' were made: the error of the norm is then about residual^2 / (2 gap), with gap
    1 - (s2 / s1)^2. A convolution's number is that of its flattened kernel, not of the operator. NaN where an entry is
    not finite. Cost: O(m n) a product.

    Raises:
        UsageError: a weight with fewer than two dims, or a start of another size.

    Source: Golub and Van Loan, Matrix Computations, section 8.2.
    """
    w = as_matrix(weight)
    if start is not None and start.shape != w.shape[1:]:
        raise UsageError(
            f"start has shape {tuple(start.shape)} for a matrix {tuple(w.shape)}: give the direction of the same weight"
            " at an earlier step, or None."
        )
    largest = w.abs().amax()
    nothing = torch.zeros_like(largest)
    if not is_finite(largest):
        return WeightSpectrum(largest * torch.nan, largest * torch.nan, largest * torch.nan, None)
    if not bool(largest > 0):
        return WeightSpectrum(nothing, nothing, nothing, None)
    w = w / largest
    frobenius = largest * torch.linalg.vector_norm(w)
    if min(w.shape) <= EXACT_SIZE:
        gram = w.double() @ w.double().T if w.shape[0] <= w.shape[1] else w.double().T @ w.double()
        top = torch.linalg.eigvalsh(gram)[-1].sqrt().to(w.dtype)
        return WeightSpectrum(largest * top, frobenius, nothing, None)
    norm, residual, v = _power_iteration(w, start, tolerance, most_products)
    return WeightSpectrum(largest * norm, frobenius, residual, v)


def _power_iteration(
    w: torch.Tensor, start: torch.Tensor | None, tolerance: float, most_products: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(w.shape[1])
    v = torch.randn(w.shape[1], generator=generator, dtype=torch.float64).to(w)
    v = v / torch.linalg.vector_norm(v)
    if start is not None and is_finite(start):
        v = start.to(w) + _FRESH * v
        v = v / torch.linalg.vector_norm(v)
    for _ in range(max(1, most_products // 2)):
        u = w @ v
        norm = torch.linalg.vector_norm(u)
        back = w.T @ (u / norm)
        residual = torch.linalg.vector_norm(back - norm * v) / norm
        v = back / torch.linalg.vector_norm(back)
        if not bool(residual > tolerance):
            break
    # The last direction has already seen one product more than the residual tells of.
    return torch.linalg.vector_norm(w @ v), residual, v


@dataclasses.dataclass(frozen=True)
class WeightTravel:
    """How far P parameters have come from their start; every field (P,).

    Attributes:
        norm: of the parameter now.
        growth: norm over the norm at the start; NaN from a start at zero.
        distance: norm of the difference from the start.
        relative_distance: distance over the norm at the start; NaN from a start at zero.
        path: length of the way through the points visited so far, never below `distance`.
    """

    norm: torch.Tensor
    growth: torch.Tensor
    distance: torch.Tensor
    relative_distance: torch.Tensor
    path: torch.Tensor


def weight_travel(
    current: Sequence[torch.Tensor],
    initial: Sequence[torch.Tensor],
    previous: Sequence[torch.Tensor] | None = None,
    path: torch.Tensor | None = None,
) -> WeightTravel:
    """Norm, distance and path of parameters, in L2 norm each, from their values now, at the start and last time.

    `path` (P,) is the length up to `previous`; both None the first time, when the path is the distance. Straight lines
    join the points visited: with steps left out the path is a lower bound of the way travelled.

    Raises:
        UsageError: lists of different length or tensors of different shape.
    """
    if previous is None:
        previous, path = initial, None
    shapes = [[t.shape for t in tensors] for tensors in (current, initial, previous)]
    if not shapes[0] == shapes[1] == shapes[2] or (path is not None and len(path) != len(current)):
        raise UsageError(
            f"{len(current)} parameters now, {len(initial)} at the start and {len(previous)} before do not have the"
            " same shapes: give the same parameters in the same order, and the path of each."
        )
    norm, start = _norms(current), _norms(initial)
    distance, moved = _norms(_differences(current, initial)), _norms(_differences(current, previous))
    scale = torch.where(start > 0, start, torch.nan)
    return WeightTravel(norm, norm / scale, distance, distance / scale, moved if path is None else path + moved)


def _differences(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    wide = [torch.float64 if x.dtype == torch.float64 else torch.float32 for x in a]
    return [x.detach().to(t) - y.detach().to(t) for x, y, t in zip(a, b, wide, strict=True)]


def _norms(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    magnitudes = root_mean_squares([t.detach() for t in tensors])
    counts = torch.tensor([local(t).numel() for t in tensors], dtype=magnitudes.dtype, device=magnitudes.device)
    return magnitudes * counts.sqrt()
