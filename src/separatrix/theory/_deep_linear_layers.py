"""Weights of deep linear nets, and gradient descent on them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.theory.theory import TheoryError

Layers = list[Tensor]
"""Weights (..., out, in), the one next to the input first."""


def random_orthogonal(rows: int, columns: int, generator: torch.Generator) -> Float[Tensor, "rows columns"]:
    """Orthonormal columns, or rows where those are fewer, uniformly distributed; float64."""
    tall = torch.randn(max(rows, columns), min(rows, columns), dtype=torch.float64, generator=generator)
    basis, upper = torch.linalg.qr(tall)
    turned: Tensor = basis * upper.diagonal().sign()
    return turned if rows >= columns else turned.T.contiguous()


def decoupled_layers(
    left: Float[Tensor, "outputs modes"],
    factors: Float[Tensor, "depth modes"],
    right: Float[Tensor, "inputs modes"],
    widths: Sequence[int],
    generator: torch.Generator,
) -> Layers:
    """Layers R_l diag(factors_l) R_(l-1)' with R_0 = right, R_depth = left and random orthonormal R between.

    `widths` are those of the hidden layers, each at least as large as there are modes. Gradient descent keeps this form
    when the columns of `right` diagonalise the input moments and those of `left` and `right` the correlation.

    Raises:
        TheoryError: there is no width for each hidden layer, or one is too small to hold all modes.
    """
    depth, modes = factors.shape
    if len(widths) != depth - 1 or any(width < modes for width in widths):
        raise TheoryError(f"hidden widths {list(widths)}: give {depth - 1}, each at least {modes}")
    frames = [right, *(random_orthogonal(width, modes, generator) for width in widths), left]
    return [
        after * factor @ before.T for factor, (before, after) in zip(factors, itertools.pairwise(frames), strict=True)
    ]


def aligned_layers(
    left: Float[Tensor, "outputs modes"],
    strengths: Float[Tensor, " modes"],
    right: Float[Tensor, "inputs modes"],
    widths: Sequence[int],
    generator: torch.Generator,
) -> Layers:
    """Decoupled layers that are balanced: each holds strengths^(1/depth), so that their product has `strengths`.

    Raises:
        TheoryError: a hidden width is too small to hold all modes.
    """
    depth = len(widths) + 1
    return decoupled_layers(left, (strengths ** (1.0 / depth)).expand(depth, -1), right, widths, generator)


def orthogonal_layers(sizes: Sequence[int], generator: torch.Generator, gain: float = 1.0) -> Layers:
    """Random orthogonal layers times `gain`, for sizes from the inputs to the outputs."""
    return [gain * random_orthogonal(after, before, generator) for before, after in itertools.pairwise(sizes)]


def gaussian_layers(sizes: Sequence[int], generator: torch.Generator, gain: float = 1.0) -> Layers:
    """Independent normal weights of variance gain^2 / fan-in, which keep the mean square of what passes at gain 1."""
    return [
        gain / math.sqrt(before) * torch.randn(after, before, dtype=torch.float64, generator=generator)
        for before, after in itertools.pairwise(sizes)
    ]


def pretrained_layers(
    inputs: Float[Tensor, "n inputs"], sizes: Sequence[int], generator: torch.Generator, gain: float = 1.0
) -> Layers:
    """Where greedy pretraining by linear autoencoders with tied weights ends, layer after layer; the last is random.

    An autoencoder with h hidden units is best, and of least norm, at Q E' with E the h leading eigenvectors of its
    input's moments and Q any orthogonal matrix. The readout is orthogonal times `gain`.
    """
    layers = []
    moment = inputs.double().T @ inputs.double() / len(inputs)
    for before, after in itertools.pairwise(sizes[:-1]):
        if after > before:
            raise TheoryError(f"an autoencoder with {after} hidden units on {before} inputs: give it no more")
        leading = torch.linalg.eigh(moment).eigenvectors[:, before - after :]
        layers.append(random_orthogonal(after, after, generator) @ leading.T)
        moment = layers[-1] @ moment @ layers[-1].T
    return [*layers, gain * random_orthogonal(sizes[-1], sizes[-2], generator)]


@dataclasses.dataclass(frozen=True)
class Descent:
    """Whole maps (kept steps, copies, outputs, inputs), losses (kept steps, copies), and layers after the last step."""

    maps: Float[Tensor, "kept copies outputs inputs"]
    losses: Float[Tensor, "kept copies"]
    layers: Layers


def product(layers: Layers) -> Tensor:
    """The map W_depth ... W_1, (..., outputs, inputs)."""
    whole: Tensor = layers[0]
    for layer in layers[1:]:
        whole = layer @ whole
    return whole


def gradients(layers: Layers, moment: Tensor, cross: Tensor) -> tuple[Tensor, Layers]:
    """The map of a net, (..., outputs, inputs), and the gradients of half the mean squared error by its layers.

    By W_l it is (W_depth ... W_(l+1))' (W E[x x'] - E[y x']) (W_(l-1) ... W_1)'; `moment` is E[x x'], `cross` E[y x'].
    """
    below = [layers[0]]
    for layer in layers[1:]:
        below.append(layer @ below[-1])
    error = below[-1] @ moment - cross
    found = []
    for index in range(len(layers) - 1, 0, -1):
        found.append(error @ below[index - 1].mT)
        error = layers[index].mT @ error
    return below[-1], [error, *found[::-1]]


def descend(
    layers: Layers,
    inputs: Float[Tensor, "n inputs"],
    targets: Float[Tensor, "n outputs"],
    rate: float,
    steps: Sequence[int],
) -> Descent:
    """Full-batch gradient descent on half the mean squared error of copies of a net, weights (copies, out, in).

    Kept are `steps`, ascending.
    """
    moment, cross = inputs.T @ inputs / len(inputs), targets.T @ inputs / len(inputs)
    power = targets.square().sum() / len(targets)
    kept, maps = set(steps), []
    for step in range(steps[-1] + 1):
        whole, slopes = gradients(layers, moment, cross)
        if step in kept:
            maps.append(whole)
        if step < steps[-1]:
            layers = [layer - rate * slope for layer, slope in zip(layers, slopes, strict=True)]
    seen = torch.stack(maps)
    losses = ((seen @ moment - 2.0 * cross) * seen).sum((2, 3)) / 2.0 + power / 2.0
    return Descent(seen, losses, layers)
