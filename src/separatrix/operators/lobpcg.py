"""What LOBPCG keeps of a subspace between two iterations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from separatrix.operators.linear import orthonormal

if TYPE_CHECKING:
    from jaxtyping import Float


def lobpcg_coordinates(ritz: Float[torch.Tensor, " m x"], current: int) -> Float[torch.Tensor, " m j"]:
    """Orthonormal coordinates of the new Ritz vectors, then of the directions that led to them; x <= j <= 2 x.

    The first `current` coordinates belong to the Ritz vectors of the iteration before, so a direction is what a new
    Ritz vector holds besides them. Source: Hetmaniuk, Lehoucq 2006 (basis selection).
    """
    directions = ritz.clone()
    directions[:current] = 0
    return torch.cat([ritz, orthonormal(directions, ritz)], dim=1)
