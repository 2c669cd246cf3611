"""Features of a state that span what a stochastic system does, trained by projection scores (DPNets, VAMPNets).

With uncentred covariances C_X, C_Y of features of the present and of the future, and C_XY across, the Hilbert-Schmidt
norm of the transfer operator projected on their spans is |C_X^(-1/2) C_XY C_Y^(-1/2)|; it is largest, at the root of
the sum of squared singular values, on the leading singular functions. VAMPNets maximise its square (Wu & Noe 2020).
DPNets (Kostic et al. 2024) subtract `distortion` times R(C_X) + R(C_Y), R(C) = tr(C^2 - C - ln C), which is zero only
for orthonormal features: then distances between features are distances of functions, and regressions stay well
conditioned. The relaxed score |C_XY|^2 / (|C_X| |C_Y|), operator norms below, is a lower bound that needs no inverse,
equal to the first where both are orthonormal.

For reversible diffusions the generator variant needs no pairs: with D = E[grad psi grad psi^T] / beta it maximises
-tr(C^-1 D), the sum of the leading eigenvalues of the generator, less the same distortion.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Score = Literal["relaxed", "projection", "vamp"]

_EVEN = 1e-6  # added to covariances that are inverted, in units of their mean variance


@dataclasses.dataclass(frozen=True)
class Network:
    """A perceptron with one hidden activation, tanh, and a linear last layer; float64."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    @classmethod
    def drawn(cls, sizes: tuple[int, ...], generator: torch.Generator, sharpness: float = 1.0) -> Network:
        """Weights normal with variance 1 / inputs, biases uniform in (-1, 1) so that units bend at different places.

        With `sharpness` other than 1 the first layer's weights are that much larger and its biases twice that.
        """
        weights, biases = [], []
        for inputs, outputs in itertools.pairwise(sizes):
            drawn = torch.randn(inputs, outputs, dtype=torch.float64, generator=generator) / math.sqrt(inputs)
            weights.append(drawn.requires_grad_())
            shift = 2.0 * torch.rand(outputs, dtype=torch.float64, generator=generator) - 1.0
            biases.append(shift.requires_grad_())
        if sharpness != 1.0:
            with torch.no_grad():
                weights[0] *= sharpness
                biases[0] *= 2.0 * sharpness
        return cls(tuple(weights), tuple(biases))

    @property
    def parameters(self) -> list[Tensor]:
        """Everything that is trained."""
        return [*self.weights, *self.biases]

    def __call__(self, states: Float[Tensor, "point variable"]) -> Float[Tensor, "point feature"]:
        """The features."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            states = torch.tanh(states @ weight + bias)
        return states @ self.weights[-1] + self.biases[-1]

    def values(self, states: Float[np.ndarray, "point variable"]) -> Float[np.ndarray, "point feature"]:
        """The features of states given as an array, without gradients."""
        with torch.no_grad():
            return np.asarray(self(torch.from_numpy(np.ascontiguousarray(states, dtype=np.float64))).numpy())


def distortion(covariance: Float[Tensor, "feature feature"]) -> Float[Tensor, ""]:
    """tr(C^2 - C - ln C), zero for the identity alone."""
    values = torch.linalg.eigvalsh(covariance).clamp_min(1e-12)
    total: Tensor = (values.square() - values - values.log()).sum()
    return total


def projection_score(
    now: Float[Tensor, "pair feature"], later: Float[Tensor, "pair feature"], score: Score
) -> Float[Tensor, ""]:
    """The score of features of the present and the future, to be maximised."""
    count = len(now)
    here, there, across = now.T @ now / count, later.T @ later / count, now.T @ later / count
    if score == "relaxed":
        norms = torch.linalg.eigvalsh(here)[-1] * torch.linalg.eigvalsh(there)[-1]
        lower: Tensor = across.square().sum() / norms
        return lower
    left = torch.linalg.solve(_lifted(here), across)
    full: Tensor = (left * torch.linalg.solve(_lifted(there), across.T).T).sum()
    return full


def _lifted(covariance: Tensor) -> Tensor:
    size = len(covariance)
    return covariance + _EVEN * covariance.trace() / size * torch.eye(size, dtype=covariance.dtype)


def train_pairs(
    now: Float[np.ndarray, "pair variable"],
    later: Float[np.ndarray, "pair variable"],
    *,
    features: int,
    width: int,
    depth: int,
    score: Score,
    weight: float,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    sharpness: float = 1.0,
) -> Network:
    """A network whose features score highest on pairs of states; a second one, for the future, is trained along.

    `weight` is that of the distortion (the VAMP score takes none). Adam with a rate that falls to zero as a cosine
    does.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = (now.shape[1], *([width] * depth), features)
    present, future = (Network.drawn(sizes, generator, sharpness) for _ in range(2))
    pairs = torch.from_numpy(np.stack([now, later]).astype(np.float64))

    def loss(chosen: Tensor) -> Tensor:
        here, there = present(pairs[0, chosen]), future(pairs[1, chosen])
        value = -projection_score(here, there, score)
        if score != "vamp":
            count = len(here)
            value = value + weight * (distortion(here.T @ here / count) + distortion(there.T @ there / count))
        return value

    _descend([*present.parameters, *future.parameters], loss, len(now), steps, batch, rate, generator)
    return present


def train_generator(
    states: Float[np.ndarray, "point variable"],
    inverse_temperature: float,
    *,
    features: int,
    width: int,
    depth: int,
    weight: float,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
) -> Network:
    """A network whose features span leading eigenfunctions of an overdamped Langevin generator, from states alone."""
    generator = torch.Generator().manual_seed(seed)
    network = Network.drawn((states.shape[1], *([width] * depth), features), generator)
    points = torch.from_numpy(states.astype(np.float64))

    def loss(chosen: Tensor) -> Tensor:
        values, slopes = with_gradients(network, points[chosen])
        covariance = values.T @ values / len(values)
        energy = torch.einsum("piv,pjv->ij", slopes, slopes) / (len(values) * inverse_temperature)
        value: Tensor = torch.linalg.solve(_lifted(covariance), energy).trace() + weight * distortion(covariance)
        return value

    _descend(network.parameters, loss, len(states), steps, batch, rate, generator)
    return network


def with_gradients(
    network: Network, states: Float[Tensor, "point variable"]
) -> tuple[Float[Tensor, "point feature"], Float[Tensor, "point feature variable"]]:
    """Features and their derivatives by the state, forward through the layers."""
    slopes = torch.eye(states.shape[1], dtype=states.dtype).expand(len(states), -1, -1)
    for weight, bias in zip(network.weights[:-1], network.biases[:-1], strict=True):
        states = torch.tanh(states @ weight + bias)
        slopes = (1.0 - states.square())[:, :, None] * (weight.T @ slopes)
    return states @ network.weights[-1] + network.biases[-1], network.weights[-1].T @ slopes


def _descend(
    parameters: list[Tensor],
    loss: Callable[[Tensor], Tensor],
    count: int,
    steps: int,
    batch: int,
    rate: float,
    generator: torch.Generator,
) -> None:
    optimizer = torch.optim.Adam(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(count, (min(batch, count),), generator=generator)
        optimizer.zero_grad()
        loss(chosen).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    for parameter in parameters:
        parameter.requires_grad_(False)
