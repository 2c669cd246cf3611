"""Continuous normalizing flow: a density carried by a differential equation.

Points flow from a standard normal at time 0 to the data at time 1, and the logarithm of their density changes by minus
the trace of the field's derivative (Chen et al. 2018, arXiv:1806.07366, theorem 1), which a small network has exactly.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.reconstruct._recurrent_training import descend
from separatrix.reconstruct.neural_ode import Network
from separatrix.reconstruct.ode import Field, runge_kutta, solve


@dataclasses.dataclass(frozen=True)
class ContinuousFlow:
    """A flow of `size` variables; the network reads a point and the time, and returns the point's velocity."""

    network: Network
    size: int

    @classmethod
    def drawn(cls, size: int, hidden: int, generator: torch.Generator) -> ContinuousFlow:
        """A random flow."""
        return cls(Network.drawn(size + 1, hidden, generator, out=size), size)

    def log_density(self, points: Float[Tensor, "point variable"], steps: int) -> Float[Tensor, " point"]:
        """Logarithm of the density, in nats, by `steps` steps of order 4."""
        return self._density(runge_kutta(self._backwards(), self._start(points), 1.0 / steps, steps)[-1])

    def solved_log_density(
        self, points: Float[Tensor, "point variable"], *, rtol: float = 1e-8
    ) -> Float[Tensor, " point"]:
        """Logarithm of the density, by adaptive steps."""
        return self._density(solve(self._backwards(), self._start(points), (0.0, 1.0), rtol=rtol, atol=rtol)[0][-1])

    def base(self, points: Float[Tensor, "point variable"], *, rtol: float = 1e-8) -> Float[Tensor, "point variable"]:
        """Where points come from at time 0; differentiable."""
        return solve(self._backwards(), self._start(points), (0.0, 1.0), rtol=rtol, atol=rtol)[0][-1][:, : self.size]

    def sampled(self, count: int, generator: torch.Generator, *, steps: int = 32) -> Float[Tensor, "point variable"]:
        """Points drawn from the flow."""
        start = torch.randn(count, self.size, dtype=torch.float64, generator=generator)
        field: Field = lambda time, state: self.network(self._at(time, state))  # noqa: E731
        return runge_kutta(field, start, 1.0 / steps, steps)[-1]

    def fit(
        self,
        points: Float[Tensor, "point variable"],
        *,
        steps: int,
        batch: int,
        rate: float,
        generator: torch.Generator,
        within: int = 8,
    ) -> None:
        """Raise the mean logarithm of the density of points, in place."""

        def loss(step: int) -> Tensor:
            chosen = torch.randint(len(points), (batch,), generator=generator)
            return -self.log_density(points[chosen], within).mean()

        descend(self.network.weights, loss, steps=steps, rate=rate, last_rate=rate / 10)

    def _start(self, points: Tensor) -> Tensor:
        return torch.cat([points, points.new_zeros(len(points), 1)], 1)

    def _at(self, time: float, points: Tensor) -> Tensor:
        return torch.cat([points, points.new_full((len(points), 1), time)], 1)

    def _backwards(self) -> Field:
        def field(elapsed: float, joint: Tensor) -> Tensor:
            inputs = self._at(1.0 - elapsed, joint[:, : self.size])
            trace = self.network.jacobian(inputs)[:, :, : self.size].diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
            return -torch.cat([self.network(inputs), trace], 1)

        return field

    def _density(self, joint: Tensor) -> Tensor:
        base, change = joint[:, : self.size], joint[:, self.size]
        return change - 0.5 * base.square().sum(1) - 0.5 * self.size * math.log(2 * math.pi)
