"""Residual perceptrons of any depth that classify digits, many copies at once: every tensor has the copies first."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from separatrix.studies._wide_nets import CLASSES, INPUTS, Data

_BETAS = (0.9, 0.99)
_TINY = 1e-30  # in place of Adam's epsilon, which has no part in a comparison of depths
BATCH = 64

Nonlinearity = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class ResidualNet:
    """x <- x + multiplier * branch(x), `depth` times, between a linear layer in and one out.

    A branch is f(x W) less its mean over units, or f(x W) W' of `two_layers`. Weights of branches have variance
    1 / width, those out 1 / width^2. Adam trains branches at `rate` times the rate of the others; `still` leaves the
    layer in as it was drawn.

    Source: Yang et al. 2023, arXiv:2310.02244, equation 1 (mean subtraction for f that is not odd).
    """

    width: int
    depth: int
    multiplier: float
    rate: float
    nonlinearity: Nonlinearity = torch.relu
    two_layers: bool = False
    still: bool = False

    def drawn(self, copies: int, generator: torch.Generator) -> list[Tensor]:
        """Weights in, of the branches in turn, and out, each (copies, in, out)."""
        wide = self.width
        inner = self.depth * (2 if self.two_layers else 1)
        shapes = [(INPUTS, wide, INPUTS**-0.5), *[(wide, wide, wide**-0.5)] * inner, (wide, CLASSES, 1 / wide)]
        return [scale * torch.randn(copies, rows, columns, generator=generator) for rows, columns, scale in shapes]

    def features(self, weights: Sequence[Tensor], inputs: Float[Tensor, "batch inputs"]) -> list[Tensor]:
        """The stream before every branch and after the last, (copies, batch, width) each."""
        stream = inputs @ weights[0]
        seen = [stream]
        for index in range(self.depth):
            if self.two_layers:
                first, second = weights[1 + 2 * index : 3 + 2 * index]
                branch = self.nonlinearity(stream @ first) @ second
            else:
                branch = self.nonlinearity(stream @ weights[1 + index])
                branch = branch - branch.mean(-1, keepdim=True)
            stream = stream + self.multiplier * branch
            seen.append(stream)
        return seen

    def train(
        self,
        weights: Sequence[Tensor],
        rates: Float[Tensor, " copies"],
        data: Data,
        steps: int,
        generator: torch.Generator,
    ) -> tuple[list[Tensor], Float[Tensor, "steps copies"]]:
        """Train all copies by Adam on the same batches, at rates falling to 0; the weights, and the batches' losses."""
        weights = list(weights)
        moving = list(range(1 if self.still else 0, len(weights)))
        first, second = ({i: torch.zeros_like(weights[i]) for i in moving} for _ in range(2))
        losses = []
        for step in range(1, steps + 1):
            rows = torch.randint(len(data.classes), (BATCH,), generator=generator)
            leaves = [weight.detach().requires_grad_() for weight in weights]
            outputs = self.features(leaves, data.inputs[rows])[-1] @ leaves[-1]
            each = functional.cross_entropy(
                outputs.flatten(0, 1), data.classes[rows].repeat(len(outputs)), reduction="none"
            ).view(len(outputs), -1)
            losses.append(each.detach().mean(1))
            gradients = torch.autograd.grad(each.mean(1).sum(), [leaves[i] for i in moving])
            for index, gradient in zip(moving, gradients, strict=True):
                inner = 0 < index < len(weights) - 1
                first[index].lerp_(gradient, 1 - _BETAS[0])
                second[index].lerp_(gradient.square(), 1 - _BETAS[1])
                spread = (second[index] / (1 - _BETAS[1] ** step)).sqrt_().add_(_TINY)
                falling = (1 - (step - 1) / steps) / (1 - _BETAS[0] ** step)
                size = (rates * (self.rate if inner else 1.0) * falling)[:, None, None]
                weights[index] = weights[index] - size * first[index] / spread
        return weights, torch.stack(losses)


def root_mean_square(values: Tensor) -> float:
    """Root mean square of all entries."""
    return float(values.square().mean().sqrt())


def diversity_exponent(features: Sequence[Tensor]) -> float:
    """kappa, where the distance of features a share e of the depth apart grows as e^(1 - kappa).

    0 where they move smoothly with depth, 1/2 where they diffuse. Distances are root mean squares over starts; shares
    are powers of two from one branch to half the depth.

    Source: Yang et al. 2023, arXiv:2310.02244, the definition of the feature diversity exponent.
    """
    depth = len(features) - 1
    gaps = [2**power for power in range(int(math.log2(depth)))]
    sizes = [
        root_mean_square(torch.stack([features[i + gap] - features[i] for i in range(depth - gap + 1)])) for gap in gaps
    ]
    x, y = torch.tensor(gaps).double().log(), torch.tensor(sizes).double().log()
    return 1.0 - float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
