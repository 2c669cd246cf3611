"""Regression on the outputs of a teacher, linear or with one hidden layer, with a power-law input spectrum."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.tasks.task import Batch, Seed, Task, choice, count, drawing, number, whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Teacher(Task):
    """Gaussian inputs of covariance diag(1, 2^-decay, ..., dimension^-decay), and targets with Gaussian noise."""

    dimension: int = 50
    decay: float = 0.0
    noise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "dimension", 1)
        number(self, "decay", 0.0)
        number(self, "noise", 0.0)

    @functools.cached_property
    def spectrum(self) -> Float[Tensor, " dimension"]:
        """Variance of each input coordinate: i^-decay for i = 1 ... dimension."""
        return torch.arange(1, self.dimension + 1, dtype=self.dtype) ** -self.decay

    def response(self, inputs: Float[Tensor, " n dimension"]) -> Float[Tensor, " n"]:
        """The teacher's output without noise."""
        raise NotImplementedError

    def sample(self, n: int, generator: Seed) -> Batch:
        """Draw n examples: inputs (n, dimension), targets (n,)."""
        draw = drawing(generator)
        inputs = torch.randn(count(n), self.dimension, dtype=self.dtype, generator=draw) * self.spectrum.sqrt()
        noise = torch.randn(n, dtype=self.dtype, generator=draw)
        return Batch(inputs, self.response(inputs) + self.noise * noise)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearTeacher(_Teacher):
    """Targets x.w + noise, w with norm `norm` in a direction drawn by `seed`.

    The population optimum is w with mean squared error noise^2; the Hessian of half the mean squared error is the
    diagonal matrix of `spectrum`.
    """

    name: ClassVar[str] = "linear_teacher"
    source: ClassVar[str] = "Advani et al. 2020, arXiv:1710.03667"

    norm: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        number(self, "norm", 0.0)

    @functools.cached_property
    def weights(self) -> Float[Tensor, " dimension"]:
        """The teacher w."""
        draws = torch.randn(self.dimension, dtype=torch.float64, generator=self._structure())
        return (self.norm * torch.nn.functional.normalize(draws, dim=0)).to(self.dtype)

    def response(self, inputs: Float[Tensor, " n dimension"]) -> Float[Tensor, " n"]:
        """The teacher's output without noise."""
        return inputs @ self.weights

    def risk(self, weights: Float[Tensor, " dimension"]) -> Float[Tensor, ""]:
        """Exact mean squared error of a linear student over the population, noise included."""
        return self.spectrum @ (weights - self.weights).square() + self.noise**2


Activation = Literal["erf", "relu", "linear"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoLayerTeacher(_Teacher):
    """Targets (1 / sqrt(units)) sum_k g(x.w_k / sqrt(dimension)) + noise: a soft committee machine.

    g is erf(u / sqrt(2)), ReLU or the identity; the rows w_k are drawn by `seed` and have norm sqrt(dimension). A
    student with as many units reaches mean squared error noise^2.
    """

    name: ClassVar[str] = "two_layer_teacher"
    source: ClassVar[str] = "Saad and Solla 1995, Phys. Rev. E 52, 4225; Goldt et al. 2019, arXiv:1906.08632"

    units: int = 3
    activation: Activation = "erf"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "units", 1)
        choice(self, "activation", ("erf", "relu", "linear"))

    @functools.cached_property
    def weights(self) -> Float[Tensor, " units dimension"]:
        """The rows w_k."""
        draws = torch.randn(self.units, self.dimension, dtype=torch.float64, generator=self._structure())
        return (math.sqrt(self.dimension) * torch.nn.functional.normalize(draws, dim=1)).to(self.dtype)

    @functools.cached_property
    def readout(self) -> Float[Tensor, " units"]:
        """The second layer: 1 / sqrt(units) for every unit."""
        return torch.full((self.units,), 1 / math.sqrt(self.units), dtype=self.dtype)

    def response(self, inputs: Float[Tensor, " n dimension"]) -> Float[Tensor, " n"]:
        """The teacher's output without noise."""
        fields = inputs @ self.weights.T / math.sqrt(self.dimension)
        if self.activation == "erf":
            return torch.erf(fields / math.sqrt(2)) @ self.readout
        return (fields.relu() if self.activation == "relu" else fields) @ self.readout

    def risk(
        self,
        weights: Float[Tensor, " students dimension"],
        readout: Float[Tensor, " students"],
    ) -> Float[Tensor, ""]:
        """Exact mean squared error over the population, noise included, of sum_j readout_j g(x.weights_j / sqrt(d)).

        E[g(u) g(v)] over the jointly Gaussian fields u and v is closed for each of the three activations (erf: Saad and
        Solla 1995; ReLU: Cho and Saul 2009).
        """
        rows = torch.cat([weights, self.weights])
        signs = torch.cat([readout, -self.readout])
        covariance = (rows * self.spectrum) @ rows.T / self.dimension
        return signs @ _products(covariance, self.activation) @ signs + self.noise**2


def _products(covariance: Tensor, activation: Activation) -> Tensor:
    """E[g(u_i) g(u_j)] for zero-mean Gaussian fields of this covariance."""
    if activation == "linear":
        return covariance
    variances = covariance.diagonal()
    if activation == "erf":
        scale = (1 + variances).sqrt()
        return torch.asin(covariance / torch.outer(scale, scale)) * (2 / math.pi)
    scale = torch.outer(variances.sqrt(), variances.sqrt())
    cosine = (covariance / scale.clamp_min(torch.finfo(scale.dtype).tiny)).clamp(-1.0, 1.0)
    angle = torch.acos(cosine)
    return scale / (2 * math.pi) * ((1 - cosine.square()).sqrt() + (math.pi - angle) * cosine)


linear = LinearTeacher()
two_layer = TwoLayerTeacher()
