"""Whether two networks are connected: the loss along the straight line between their weights.

With d the difference of the weights and s the place on the line, in [0, 1], the loss above the straight line between
its ends is exactly minus the integral of min(s, t) (1 - max(s, t)) d^T H(t) d over t, H(t) the Hessian at t. Held
constant at its value in the middle, that is -(1/8) d^T H d halfway: a barrier stands where the loss is concave along
the line, and grows with the square of the distance.

Source: Singh, Adilova, Kamp, Fischer, Schoelkopf and Hofmann 2024, Landscaping Linear Mode Connectivity,
arXiv:2406.16300; Frankle et al. 2020, arXiv:1912.05671, for the barrier.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.runs.errors import UsageError

Weights = Mapping[str, Tensor]
"""Weights by name, as `module.state_dict()` or `dict(module.named_parameters())` gives them."""

Loss = Callable[[Weights], Tensor]
"""A scalar function of the weights, such as one that calls `torch.func.functional_call`."""


@dataclasses.dataclass(frozen=True)
class Barrier:
    """The loss along the line: `places` from 0 to 1, `losses` there, `height` the largest excess over the chord.

    `place` is where that is. The height is 0 where no point lies above the chord.
    """

    places: Float[np.ndarray, " points"]
    losses: Float[np.ndarray, " points"]
    height: float
    place: float


def barrier(loss: Loss, first: Weights, second: Weights, *, points: int = 11) -> Barrier:
    """The loss along the straight line from `first` to `second`, and how far it rises above the line of its ends.

    Names that hold no floating-point numbers, such as counters, are taken from `first`.

    Raises:
        UsageError: the weights differ in names or shapes, or `points` is below three.

    Cost: `points` evaluations of the loss.
    """
    if points < 3:
        raise UsageError(f"a line of {points} points shows no barrier: ask for three or more")
    _check(first, second)
    places = np.linspace(0.0, 1.0, points)
    with torch.no_grad():
        losses = np.array([float(loss(_between(first, second, float(t)))) for t in places])
    height, place = _height(places, losses)
    return Barrier(places, losses, height, place)


def barrier_height(losses: Float[np.ndarray, " points"]) -> float:
    """Largest excess of losses at evenly spaced points of a line over the chord of the ends, at least 0."""
    values = np.asarray(losses, dtype=np.float64)
    return _height(np.linspace(0.0, 1.0, len(values)), values)[0]


def layer_barriers(
    loss: Loss, first: Weights, second: Weights, groups: Mapping[str, Sequence[str]] | None = None, *, points: int = 11
) -> dict[str, Barrier]:
    """Barriers where only one group of names moves from `first` to `second` and the others stay at `first`.

    By default the parameters of one module are a group: what stands before the last dot.

    Raises:
        UsageError: see `barrier`; or a group names unknown weights.
    """
    found: dict[str, list[str]] = {}
    for name in first:
        found.setdefault(name.rpartition(".")[0] or name, []).append(name)
    chosen = {key: list(names) for key, names in (groups or found).items()}
    if unknown := [name for names in chosen.values() for name in names if name not in first]:
        raise UsageError(f"there is no weight {unknown[0]!r}: choose from {', '.join(first)}")
    return {
        key: barrier(loss, first, {**first, **{name: second[name] for name in names}}, points=points)
        for key, names in chosen.items()
    }


def predicted_barrier(loss: Loss, first: Weights, second: Weights, *, nodes: int = 1) -> float:
    """The height halfway that curvature and distance predict, from Hessian-vector products at `nodes` places.

    One node takes the curvature in the middle, -(1/8) d^T H d; more integrate the exact formula by Gauss-Legendre
    quadrature on either half, `nodes` places each. The loss must be twice differentiable. It may be negative: the loss
    is then convex along the line.

    Raises:
        UsageError: the weights differ in names or shapes, or `nodes` is below 1.

    Cost: two gradients a node.
    """
    if nodes < 1:
        raise UsageError(f"{nodes} places to measure curvature at: ask for one or more")
    _check(first, second)
    if nodes == 1:
        return -_curvature(loss, first, second, 0.5) / 8.0
    abscissas, masses = np.polynomial.legendre.leggauss(nodes)
    total = 0.0
    for x, mass in zip(abscissas, masses, strict=True):
        t = (x + 1.0) / 4.0  # in (0, 1/2), where the kernel is t / 2; its mirror image has the same kernel
        both = _curvature(loss, first, second, t) + _curvature(loss, first, second, 1.0 - t)
        total += float(mass) / 4.0 * t / 2.0 * both
    return -total


def _curvature(loss: Loss, first: Weights, second: Weights, place: float) -> float:
    """Second derivative of the loss along the line."""
    at = {name: values.detach().clone() for name, values in _between(first, second, place).items()}
    moving = {name: values.requires_grad_() for name, values in at.items() if values.is_floating_point()}
    step = {name: (second[name] - first[name]).detach() for name in moving}
    gradients = torch.autograd.grad(loss(at), list(moving.values()), create_graph=True, allow_unused=True)
    slope = sum(
        (g * step[name]).sum() for name, g in zip(moving, gradients, strict=True) if g is not None and g.requires_grad
    )
    if not isinstance(slope, Tensor):
        return 0.0
    second_order = torch.autograd.grad(slope, list(moving.values()), allow_unused=True)
    pairs = zip(moving, second_order, strict=True)
    return float(sum(float((g * step[name]).sum()) for name, g in pairs if g is not None))


def _between(first: Weights, second: Weights, place: float) -> dict[str, Tensor]:
    return {
        name: torch.lerp(values, second[name], place) if values.is_floating_point() else values
        for name, values in first.items()
    }


def _height(places: np.ndarray, losses: np.ndarray) -> tuple[float, float]:
    excess = losses - ((1.0 - places) * losses[0] + places * losses[-1])
    best = int(excess.argmax())
    return max(0.0, float(excess[best])), float(places[best])


def _check(first: Weights, second: Weights) -> None:
    if differing := sorted(first.keys() ^ second.keys()):
        raise UsageError(f"only one of the networks has {differing[0]!r}: compare networks of one architecture")
    for name, values in first.items():
        if values.shape != second[name].shape:
            shapes = f"{tuple(values.shape)} and {tuple(second[name].shape)}"
            raise UsageError(f"{name} has the shapes {shapes}: compare networks of one architecture")
