"""One layer of linear self-attention on prompts of labelled examples, whole, and its training on fresh ones.

The layer is E + V E (E' M E) / n for prompts E with one token (x_k, y_k) a column, the query (x, 0) the last; its
prediction is the last entry of the last column. On that act the last row of V and, as the query's label is 0, all
columns of M but the last; all else has no gradient and is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.tasks.task import Batch


@dataclasses.dataclass(frozen=True)
class Layer:
    """Last row of V, and M but for its last column."""

    value: Float[Tensor, " features"]
    key_query: Float[Tensor, "features dimension"]

    @property
    def step(self) -> Float[Tensor, "dimension dimension"]:
        """A of the gradient step X'y A / n in what the layer predicts."""
        return self.value[-1] * self.key_query[:-1]

    def state(self, tokens: Float[Tensor, "n tokens features"]) -> Float[Tensor, "n features"]:
        """V's last row times E E' / n."""
        seen: Tensor = ((tokens @ self.value)[:, None] @ tokens)[:, 0] / (tokens.shape[1] - 1)
        return seen

    def predictions(self, tokens: Float[Tensor, "n tokens features"]) -> Float[Tensor, " n"]:
        """Labels of the queries."""
        predicted: Tensor = (self.state(tokens) * (tokens[:, -1, :-1] @ self.key_query.T)).sum(1)
        return predicted

    def gradient(self, batch: Batch) -> Layer:
        """Derivative of half the mean squared error."""
        tokens, targets = batch
        query, state = tokens[:, -1, :-1], self.state(tokens)
        asked = query @ self.key_query.T
        residual = ((state * asked).sum(1) - targets) / len(targets)
        scores = (tokens @ asked[..., None])[..., 0] * residual[:, None] / (tokens.shape[1] - 1)
        return Layer(tokens.flatten(0, 1).T @ scores.flatten(), (state * residual[:, None]).T @ query)


def gradient_step(step: Float[Tensor, "dimension dimension"]) -> Layer:
    """The layer that predicts X'y A / n at the query, and reads nothing but labels."""
    value = torch.zeros(len(step) + 1, dtype=step.dtype)
    value[-1] = 1.0
    return Layer(value, torch.cat([step, torch.zeros(1, len(step), dtype=step.dtype)]))


def small_start(dimension: int, scale: float, generator: torch.Generator) -> Layer:
    """The start of Zhang, Frei and Bartlett: V reads labels, M is a positive matrix of covariates; both of one norm."""
    half = torch.randn(dimension, dimension, generator=generator)
    positive = half @ half.T
    layer = gradient_step(scale * positive / positive.norm())
    return Layer(scale * layer.value, layer.key_query)


def descended(
    layer: Layer,
    sample: Callable[[int, torch.Generator], Batch],
    rate: float,
    batch: int,
    steps: tuple[int, int],
    generator: torch.Generator,
) -> Layer:
    """Stochastic gradient descent on fresh prompts: `steps` at a growing rate, then some over which it is averaged."""
    before, over = steps
    value, key_query = torch.zeros_like(layer.value), torch.zeros_like(layer.key_query)
    for step in range(before + over):
        gradient = layer.gradient(sample(batch, generator))
        now = rate * min(1.0, (step + 1) / before)
        layer = Layer(layer.value - now * gradient.value, layer.key_query - now * gradient.key_query)
        if step >= before:
            value += layer.value / over
            key_query += layer.key_query / over
    return Layer(value, key_query)
