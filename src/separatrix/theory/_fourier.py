"""Fourier measures of a net that adds modulo p, from its logits on all pairs (a, b), rows in the order a p + b.

Frequencies are k = 1 ... (p - 1) / 2 at index k - 1, p odd; w_k = 2 pi k / p. Source: Nanda et al. 2023,
arXiv:2301.05217, sections 4 and 5.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def sum_waves(p: int, frequencies: Tensor | None = None) -> Float[Tensor, "frequencies 2 pairs"]:
    """Cosine and sine of w_k (a + b) over all pairs, each of norm 1; orthonormal, and orthogonal to constants.

    Of all frequencies, or of those at these indices.
    """
    indices = torch.arange((p - 1) // 2) if frequencies is None else frequencies
    residues = torch.arange(p, dtype=torch.float64)
    sums = (residues[:, None] + residues).flatten()
    angles = 2.0 * math.pi / p * (indices[:, None] + 1).double() * sums
    return torch.stack([angles.cos(), angles.sin()], 1) * math.sqrt(2.0) / p


def _along(logits: Float[Tensor, "*batch pairs p"], frequencies: Tensor) -> tuple[Tensor, Tensor]:
    waves = sum_waves(logits.shape[-1], frequencies).flatten(0, 1).to(logits.dtype)
    return waves, waves @ logits


def excluded(logits: Float[Tensor, "*batch pairs p"], frequencies: Tensor) -> Float[Tensor, "*batch pairs p"]:
    """Logits without what goes with cos and sin of w_k (a + b) for these indices of frequencies."""
    waves, along = _along(logits, frequencies)
    return logits - waves.T @ along


def restricted(logits: Float[Tensor, "*batch pairs p"], frequencies: Tensor) -> Float[Tensor, "*batch pairs p"]:
    """Only that part of the logits, and their means over all pairs."""
    waves, along = _along(logits, frequencies)
    kept: Tensor = waves.T @ along + logits.mean(-2, keepdim=True)
    return kept


def wave_shares(logits: Float[Tensor, "*batch pairs p"]) -> Float[Tensor, "*batch frequencies"]:
    """Share of the logits' variance over pairs that goes with each w_k (a + b)."""
    waves = sum_waves(logits.shape[-1]).to(logits.dtype)
    centred = logits - logits.mean(-2, keepdim=True)
    power = (waves.flatten(0, 1) @ centred).square().sum(-1).unflatten(-1, (-1, 2)).sum(-1)  # type: ignore[no-untyped-call]
    shares: Tensor = power / centred.square().sum((-2, -1))[..., None]
    return shares


def circuit_amplitudes(logits: Float[Tensor, "*batch pairs p"]) -> Float[Tensor, "*batch frequencies"]:
    """Coefficients of cos(w_k (a + b - c)) in the logits: the strength of each frequency's circuit."""
    p = logits.shape[-1]
    sums = (torch.arange(p)[:, None] + torch.arange(p)).flatten()
    turned = logits.gather(-1, ((sums[:, None] - torch.arange(p)) % p).expand(logits.shape))
    amplitudes: Tensor = 2.0 / p * torch.fft.rfft(turned.mean(-2)).real[..., 1:]
    return amplitudes


def circuit_logits(amplitudes: Float[Tensor, "*batch frequencies"], p: int) -> Float[Tensor, "*batch p"]:
    """sum_k amplitude_k cos(w_k d) for d = a + b - c = 0 ... p - 1."""
    angles = torch.arange(1, (p + 1) // 2, dtype=torch.float64)[:, None] * torch.arange(p, dtype=torch.float64)
    logits: Tensor = amplitudes @ (2.0 * math.pi / p * angles).cos()
    return logits


def circuit_loss(amplitudes: Float[Tensor, "*batch frequencies"], p: int) -> Float[Tensor, "*batch"]:
    """Cross-entropy of a net with these circuits and nothing else: log sum_d exp f(d) - f(0)."""
    logits = circuit_logits(amplitudes, p)
    return logits.logsumexp(-1) - logits[..., 0]


def frequency_norms(table: Float[Tensor, "*batch p columns"]) -> Float[Tensor, "*batch frequencies"]:
    """Norm of what each frequency contributes to a table with one row for each residue, such as an embedding."""
    waves = torch.fft.rfft(table, dim=-2, norm="ortho")[..., 1:, :]
    norms: Tensor = waves.abs().square().sum(-1).sqrt()
    return math.sqrt(2.0) * norms


def gini(values: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Gini coefficient of sizes: 0 where all are equal, 1 - 1 / n where one has everything."""
    sizes = values.abs().sort(-1).values
    ranks = torch.arange(1, sizes.shape[-1] + 1, dtype=sizes.dtype)
    count = sizes.shape[-1]
    return 2.0 * (ranks * sizes).sum(-1) / (count * sizes.sum(-1)) - (count + 1.0) / count
