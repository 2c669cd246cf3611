"""Features as the measurements of representations want them: (examples, features), float64, checked, centred."""

from __future__ import annotations

import torch

from separatrix.runs.errors import UsageError


def as_features(x: torch.Tensor, name: str = "features") -> torch.Tensor:
    """`x` (n, d) detached in float64, on its device where that has the type.

    Raises:
        UsageError: `x` is not a real floating-point matrix with at least one row and one column.
    """
    if x.dim() != 2 or not x.is_floating_point() or not x.numel():
        raise UsageError(
            f"{name} has shape {tuple(x.shape)} and dtype {x.dtype}:"
            " give a floating-point matrix (examples, features) with at least one of each."
        )
    x = x.detach()
    return (x.cpu() if x.device.type == "mps" else x).to(torch.float64)


def centred(x: torch.Tensor) -> torch.Tensor:
    """Columns of `x` (n, d) minus their means; exactly zero where only the rounding of the mean would be left."""
    difference = x - x.mean(dim=0)
    rounding = x.shape[0] * torch.finfo(x.dtype).eps * x.abs().amax(dim=0)
    return difference.masked_fill(difference.abs().amax(dim=0) <= rounding, 0.0)


def is_finite(*tensors: torch.Tensor) -> bool:
    """Whether every entry of every tensor is a number."""
    return all(bool(torch.isfinite(t).all()) for t in tensors)


def rank_tolerance(shape: torch.Size, dtype: torch.dtype) -> float:
    """Singular values below this part of the largest are rounding of entries that came in `dtype`."""
    return max(shape) * torch.finfo(dtype).eps


def undefined(like: torch.Tensor) -> torch.Tensor:
    """NaN as a scalar, where a quantity is not defined or its input is not finite."""
    return torch.full((), torch.nan, dtype=torch.float64, device=like.device)
