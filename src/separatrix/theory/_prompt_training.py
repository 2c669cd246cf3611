"""Full-batch training of linear attention on many prompts, where keys are covariates and values are labels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.tasks.in_context_regression import InContextRegression
from separatrix.theory.theory import Simulation

Parameters = tuple[Tensor, ...]
"""Of all copies, each (copies, ...)."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """Half the mean squared error over finitely many prompts, as what it is: a quadratic form in the step A.

    The attention layer predicts sum_k y_k x_k' A x / length. With one feature z_i x_j for each entry of A, where z is
    sum_k y_k x_k / length, the loss is (power - 2 cross.A + A.square A) / 2. Copies have prompts of their own.
    """

    square: Float[Tensor, "copies entries entries"]
    cross: Float[Tensor, "copies entries"]
    power: Float[Tensor, " copies"]

    def losses(self, step: Float[Tensor, "copies dimension dimension"]) -> Float[Tensor, " copies"]:
        """The loss of each copy's step."""
        flat = step.flatten(1)
        quadratic = (flat * (self.square @ flat[..., None])[..., 0]).sum(1)
        return (self.power - 2 * (self.cross * flat).sum(1) + quadratic) / 2

    def gradient(
        self, step: Float[Tensor, "copies dimension dimension"]
    ) -> Float[Tensor, "copies dimension dimension"]:
        """The derivative of each copy's loss by its step."""
        return ((self.square @ step.flatten(1)[..., None])[..., 0] - self.cross).view_as(step)

    def leaving_out(self) -> Objective:
        """Each copy with the prompts of all others in place of its own."""
        others = (self.square, self.cross, self.power)
        return Objective(*((part.sum(0) - part) / (len(part) - 1) for part in others))


def objective(task: InContextRegression, copies: int, n: int, generator: torch.Generator) -> Objective:
    """The objective of n prompts for each of the copies, in double precision."""
    parts = []
    for _ in range(copies):
        tokens, targets = task.sample(n, generator)
        gradients = (tokens[:, :, -1:].mT @ tokens[:, :, :-1])[:, 0] / task.length
        features = (gradients[:, :, None] * tokens[:, -1, None, :-1]).flatten(1)
        parts.append((features.T @ features / n, targets @ features / n, targets.square().mean()))
    square, cross, power = (torch.stack(part).double() for part in zip(*parts, strict=True))
    return Objective(square, cross, power)


def descended(
    start: Parameters, gradients: Callable[[Parameters], Parameters], rate: float, steps: Sequence[int]
) -> list[Parameters]:
    """The parameters of all copies after each of `steps`, ascending, of gradient descent."""
    done, now, kept = 0, start, []
    for step in steps:
        for _ in range(step - done):
            now = tuple(each - rate * gradient for each, gradient in zip(now, gradients(now), strict=True))
        done = step
        kept.append(now)
    return kept


def jackknifed(values: Mapping[str, Float[Tensor, "steps copies *labels"]]) -> Simulation:
    """Means over trainings each of which leaves out its own share of all prompts, and their standard errors."""
    seen = {name: value.double() for name, value in values.items()}
    return Simulation(
        {name: value.mean(1).numpy() for name, value in seen.items()},
        {
            name: (value.std(1) * (value.shape[1] - 1) / math.sqrt(value.shape[1])).numpy()
            for name, value in seen.items()
        },
    )
