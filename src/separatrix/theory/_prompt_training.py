"""Full-batch training of linear attention on many prompts, where keys are covariates and values are labels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from separatrix.tasks import ensemble
from separatrix.tasks.in_context_regression import InContextRegression


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


class _Step(nn.Module):
    """A as a product of parts that learn: one that is A, or v and U."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        super().__init__()
        self.parts = nn.ParameterList(parts)

    def forward(self) -> Float[Tensor, "dimension dimension"]:
        step: Tensor = functools.reduce(torch.mul, self.parts)
        return step


def _loss(step: Float[Tensor, "dimension dimension"], objective: tuple[Tensor, ...]) -> Float[Tensor, ""]:
    square, cross, power = objective
    flat = step.flatten()
    loss: Tensor = (power - 2 * cross @ flat + flat @ square @ flat) / 2
    return loss


def descended(
    start: Sequence[Float[Tensor, "copies ..."]], training: Objective, rate: float, steps: Sequence[int]
) -> Float[Tensor, "steps copies dimension dimension"]:
    """A after each of `steps`, ascending, of gradient descent on the parts of which it is the product."""
    layers = ensemble.from_values(
        _Step([part[0] for part in start]), {f"parts.{index}": part for index, part in enumerate(start)}
    )
    wanted = (training.square, training.cross, training.power)
    trained = ensemble.train(
        layers,
        _loss,
        ensemble.SGD(rate),
        lambda step: ((), wanted),
        max(steps[-1], 1),
        measure={"step": lambda now: now.outputs(())},
        every=steps,
    )
    return trained.measured["step"].values
