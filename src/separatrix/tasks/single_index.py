"""Single-index polynomials: the target is a polynomial of one hidden direction of Gaussian inputs."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.tasks.task import Batch, Seed, Task, check, count, drawing, number, whole


def hermite(u: Float[Tensor, "*shape"], degree: int) -> Float[Tensor, "*shape"]:
    """The polynomial of this degree that is orthonormal under a standard normal variable: He_k(u) / sqrt(k!)."""
    last, now = torch.zeros_like(u), torch.ones_like(u)
    for k in range(degree):
        last, now = now, (u * now - math.sqrt(k) * last) / math.sqrt(k + 1)
    return now


@dataclasses.dataclass(frozen=True, kw_only=True)
class SingleIndex(Task):
    """Standard normal inputs x, (n, dimension); targets sum_k coefficients[k] He_k(u) / sqrt(k!) + noise, u = x.beta.

    beta is a unit vector drawn by `seed`. The targets have mean coefficients[0] and variance noise^2 plus the sum of
    the other squared coefficients. By default they are u^2 / 2.
    """

    name: ClassVar[str] = "single_index"
    source: ClassVar[str] = "Kumar et al. 2024, arXiv:2310.06110; Ben Arous et al. 2021, arXiv:2003.10409"

    dimension: int = 100
    coefficients: tuple[float, ...] = (0.5, 0.0, math.sqrt(0.5))
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "dimension", 1)
        number(self, "noise", 0.0)
        finite = isinstance(self.coefficients, tuple) and all(math.isfinite(value) for value in self.coefficients)
        check(self, "coefficients", finite and len(self.coefficients) > 1, "at least two finite numbers")
        check(self, "coefficients", any(self.coefficients[1:]), "other than 0 for some degree from 1 on")

    @functools.cached_property
    def direction(self) -> Float[Tensor, " dimension"]:
        """The unit vector beta."""
        draws = torch.randn(self.dimension, dtype=torch.float64, generator=self._structure())
        return torch.nn.functional.normalize(draws, dim=0).to(self.dtype)

    @property
    def information_exponent(self) -> int:
        """The lowest degree from 1 on with a coefficient other than 0: online descent needs d^(degree - 1) examples."""
        return next(degree for degree, value in enumerate(self.coefficients) if degree and value)

    @property
    def moments(self) -> tuple[float, Float[Tensor, " dimension"], Float[Tensor, "dimension dimension"]]:
        """E[y], E[y x] and E[y (x x' - 1)] / 2 of the targets y: their projections on polynomials of degree 0 to 2."""
        constant, slope, bend = (*self.coefficients, 0.0, 0.0)[:3]
        beta = self.direction
        return constant, slope * beta, bend / math.sqrt(2.0) * torch.outer(beta, beta)

    @property
    def power(self) -> float:
        """E[y^2] without noise."""
        return sum(value**2 for value in self.coefficients)

    def response(self, inputs: Float[Tensor, "n dimension"]) -> Float[Tensor, " n"]:
        """The polynomial, without noise."""
        fields = inputs @ self.direction
        return sum(
            (value * hermite(fields, degree) for degree, value in enumerate(self.coefficients) if value),
            torch.zeros_like(fields),
        )

    def sample(self, n: int, generator: Seed) -> Batch:
        """Draw n examples: inputs (n, dimension), targets (n,)."""
        draw = drawing(generator)
        inputs = torch.randn(count(n), self.dimension, dtype=self.dtype, generator=draw)
        return Batch(inputs, self.response(inputs) + self.noise * torch.randn(n, dtype=self.dtype, generator=draw))


default = SingleIndex()
