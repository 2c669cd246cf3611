"""Norms over many tensors at once, in a precision that neither overflows nor rounds away small values."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_SMALLEST, _LARGEST = 1e-18, 1e18
_LOW_PRECISION = (torch.float16, torch.bfloat16)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a sharded tensor that lives in this process; a sparse one's values. No collective, no copy else."""
    if hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    if tensor.layout is not torch.strided:
        tensor = tensor.coalesce().values() if tensor.layout is torch.sparse_coo else tensor.values()
    return tensor


def root_mean_squares(tensors: Sequence[torch.Tensor], counts: Sequence[int] | None = None) -> torch.Tensor:
    """RMS of each tensor, shape (len(tensors),), float32 or wider; `counts` replaces the number of entries."""
    parts = [local(t) for t in tensors]
    if not parts:
        return torch.zeros(0)
    norms: list[torch.Tensor | None] = [None] * len(parts)
    for low in (False, True):
        chosen = [i for i, t in enumerate(parts) if (t.dtype in _LOW_PRECISION) is low and t.numel()]
        if not chosen:
            continue
        group = [parts[i] for i in chosen]
        found = torch._foreach_norm(group, 2, dtype=torch.float32) if low else torch._foreach_norm(group, 2)
        for i, norm in zip(chosen, found, strict=True):
            norms[i] = norm
    device = parts[0].device
    filled = [torch.zeros((), device=device) if n is None else n.to(device) for n in norms]
    sizes = [max(1, n) for n in (counts if counts is not None else [t.numel() for t in parts])]
    widest = torch.float64 if any(n.dtype == torch.float64 for n in filled) else torch.float32
    stacked = torch.stack([n.to(widest) for n in filled])
    magnitudes = stacked / torch.tensor(sizes, dtype=widest, device=device).sqrt_()
    if device.type == "cpu":
        # Squares leave the range of the number format long before the entries themselves do.
        for i, magnitude in enumerate(magnitudes.tolist()):
            if parts[i].numel() and not _SMALLEST < magnitude < _LARGEST:
                magnitudes[i] = scaled_root_mean_square(parts[i], sizes[i])
    return magnitudes


def scaled_root_mean_square(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """RMS over `count` entries, those given so large or small that their squares are not numbers of their format."""
    wide = tensor.detach().abs().to(torch.float64 if tensor.dtype == torch.float64 else torch.float32)
    largest = wide.max()
    if not bool(torch.isfinite(largest)) or not bool(largest > 0):
        return largest
    relative: torch.Tensor = torch.linalg.vector_norm(wide / largest) / count**0.5
    return largest * relative


def nonfinite_shares(tensors: Sequence[torch.Tensor], magnitudes: torch.Tensor) -> torch.Tensor:
    """Share of non-finite entries of each tensor, given their RMS: only where that is not finite is there a look."""
    shares = torch.zeros(len(tensors), device=magnitudes.device)
    if magnitudes.device.type == "cpu":
        suspects = (~torch.isfinite(magnitudes)).nonzero().flatten().tolist()
    else:
        suspects = list(range(len(tensors)))
    for i in suspects:
        part = local(tensors[i])
        shares[i] = (~torch.isfinite(part)).sum() / max(1, part.numel())
    return shares
