"""Slices of the loss along directions of weights, filter by filter on the scale of the network.

Source: Li, Xu, Taylor, Studer and Goldstein 2018, Visualizing the Loss Landscape of Neural Nets, arXiv:1712.09913.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.analysis.trajectory.connectivity import Loss, Weights
from separatrix.runs.errors import UsageError

_MATRIX = 2
_TINY = 1e-10


@dataclasses.dataclass(frozen=True)
class Slice:
    """The loss around weights: `losses` has one dimension a direction, at `coordinates` along each."""

    coordinates: tuple[Float[np.ndarray, " points"], ...]
    losses: Float[np.ndarray, " *points"]


def random_direction(weights: Weights, seed: int) -> dict[str, Tensor]:
    """A Gaussian direction in the space of the floating-point weights, from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(values.shape, generator=generator, dtype=torch.float64).to(values.dtype).to(values.device)
        for name, values in weights.items()
        if values.is_floating_point()
    }


def filter_normalised(direction: Weights, weights: Weights) -> dict[str, Tensor]:
    """The direction with each filter as long as that of the weights; biases and scales (one dimension) set to zero.

    A filter is what belongs to one output unit: the first dimension counts them. A filter that is zero in the weights
    is zero in the direction.
    """
    scaled = {}
    for name, values in direction.items():
        held = weights[name].detach()
        if values.dim() < _MATRIX:
            scaled[name] = torch.zeros_like(values)
            continue
        lengths = held.flatten(1).norm(dim=1) / values.flatten(1).norm(dim=1).clamp_min(_TINY)
        scaled[name] = values * lengths.reshape(-1, *[1] * (values.dim() - 1))
    return scaled


def loss_slice(
    loss: Loss, weights: Weights, directions: Sequence[Weights], coordinates: Sequence[Float[np.ndarray, " points"]]
) -> Slice:
    """The loss at `weights` plus all combinations of coordinates along one, two or more directions.

    Raises:
        UsageError: directions and coordinates differ in number, or a direction does not fit the weights.

    Cost: as many evaluations of the loss as there are combinations.
    """
    if not directions or len(directions) != len(coordinates):
        raise UsageError(f"{len(directions)} directions and {len(coordinates)} sets of coordinates: give one for each")
    for direction in directions:
        for name, values in direction.items():
            if name not in weights or weights[name].shape != values.shape:
                raise UsageError(f"a direction for {name!r} does not fit the weights: make it from these weights")
    grid = np.stack(np.meshgrid(*coordinates, indexing="ij"), axis=-1)
    losses = np.empty(grid.shape[:-1])
    with torch.no_grad():
        for index in np.ndindex(*losses.shape):
            moved = dict(weights)
            for amount, direction in zip(grid[index], directions, strict=True):
                moved |= {name: moved[name] + float(amount) * values for name, values in direction.items()}
            losses[index] = float(loss(moved))
    return Slice(tuple(np.asarray(c, dtype=np.float64) for c in coordinates), losses)
