"""Neural stochastic differential equation: networks are drift and diffusion, trained on what laws of paths have alone.

dX = f(X) dt + g(X) o dW in the sense of Stratonovich, solved by the reversible Heun method from a normal distribution
that is learnt too. It is a generator of paths as in Kidger, Foster, Li, Oberhauser and Lyons 2021 (Neural SDEs as
Infinite-Dimensional GANs, arXiv:2102.03657). The best linear discriminator of signatures is known in closed form: its
score is the distance of mean signatures, which determine a law (Ni, Szpruch, Sabate-Vidales, Xiao, Wiese and Liao 2021,
Sig-Wasserstein GANs for Time Series Generation, arXiv:2111.01207), so that no second network is trained.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.reconstruct._recurrent_training import descend
from separatrix.reconstruct.neural_ode import Network
from separatrix.reconstruct.reversible_heun import reversible_heun
from separatrix.reconstruct.signatures import signatures, with_time_and_start


@dataclasses.dataclass(frozen=True)
class NeuralSDE:
    """Drift and diffusion (one of a Wiener process a state), and where paths start: location + scale x normal.

    Without `noise` the diffusion is left out, which makes it an ordinary equation from random starts.
    """

    field: Network
    location: Tensor
    scale: Tensor
    noise: bool = True

    @classmethod
    def drawn(cls, states: int, hidden: int, generator: torch.Generator, *, noise: bool = True) -> NeuralSDE:
        """Random weights; paths start from a standard normal distribution."""
        location, scale = (torch.full((states,), each, dtype=torch.float64) for each in (0.0, 1.0))
        field = Network.drawn(states, hidden, generator, out=2 * states)
        return cls(field, location.requires_grad_(), scale.requires_grad_(), noise)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """All that is learnt."""
        return *self.field.weights, self.location, self.scale

    def sample(
        self, batch: int, steps: int, dt: float, generator: torch.Generator
    ) -> Float[Tensor, "{steps}+1 batch state"]:
        """Paths, `dt` apart, differentiable in the weights."""
        size = len(self.location)
        start = self.location + self.scale * torch.randn(batch, size, dtype=torch.float64, generator=generator)
        wiener = math.sqrt(dt) * torch.randn(steps, batch, size, dtype=torch.float64, generator=generator)
        clock = torch.full((steps, batch, 1), dt, dtype=torch.float64)
        increments = torch.cat([clock, wiener if self.noise else 0 * wiener], 2)

        def field(state: Tensor) -> Tensor:
            values = self.field(state)
            spread = torch.nn.functional.softplus(values[:, size:])
            return torch.cat([values[:, :size, None], torch.diag_embed(spread)], 2)

        return reversible_heun(field, self.field.weights, start, increments, keep=range(steps + 1), stored=True)


def fit_to_signatures(
    sde: NeuralSDE,
    paths: Float[Tensor, "time path state"],
    dt: float,
    *,
    steps: int,
    generator: torch.Generator,
    depth: int = 4,
    batch: int = 256,
    rate: float = 0.1,
) -> None:
    """Train an equation's weights in place, so that its paths have the mean signature of the data's, `dt` apart.

    Words count in spreads of the data; those that do not vary are left out. The rate of Adam falls by a factor 50.
    """
    span = dt * (len(paths) - 1)

    def words(some: Tensor) -> Tensor:
        return torch.cat(signatures(with_time_and_start(some, span), depth), 1)

    seen = words(paths)
    spread = seen.std(0)
    varied = spread > 1e-9
    mean, spread = seen.mean(0)[varied], spread[varied]

    def loss(_: int) -> Tensor:
        made = words(sde.sample(batch, len(paths) - 1, dt, generator))[:, varied]
        return ((made.mean(0) - mean) / spread).square().sum()

    descend(sde.weights, loss, steps=steps, rate=rate, last_rate=rate / 50)
