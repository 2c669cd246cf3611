"""A character transformer in two parametrizations, unit-scaled and standard, many copies at once.

Every tensor has the copies first. Unit scaling gives every operation constant factors of its own on outputs and on
gradients, so that both start at a root mean square of one; gradients are then no longer those of the outputs, only
parallel to them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from separatrix.tasks.text import VOCABULARY

HEAD = 8
LENGTH = 32
BATCH = 8
_CHARACTERS = len(VOCABULARY)
_BETAS = (0.9, 0.99)
_TINY = 1e-30  # in place of Adam's epsilon, which has no part in a comparison of scales
_LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}


def cast(values: Tensor, kind: torch.dtype) -> Tensor:
    """Values rounded to an 8-bit floating-point format, clamped to its largest number."""
    largest = _LARGEST[kind]
    return values.clamp(-largest, largest).to(kind).to(values.dtype)


class _Scaled(torch.autograd.Function):
    """Multiplies by one constant on the way out and by another on the way back; constants may be (copies, 1, 1)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, ahead: float | Tensor, back: float | Tensor) -> Tensor:
        ctx.back = back
        return values * ahead

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] * ctx.back, None, None


class _Product(torch.autograd.Function):
    """Inputs times weights with a constant on the outputs and on each gradient, in 8 bits if asked.

    Inputs and weights are then rounded to E4M3, gradients of outputs to E5M2; `lost` takes the share that became zero.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weights: Tensor, scales: tuple[float, float, float], small: bool, lost: list[float]
    ) -> Tensor:
        if small:
            inputs, weights = cast(inputs, torch.float8_e4m3fn), cast(weights, torch.float8_e4m3fn)
        ctx.save_for_backward(inputs, weights)
        ctx.scales, ctx.small, ctx.lost = scales, small, lost
        return (inputs @ weights) * scales[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        inputs, weights = ctx.saved_tensors
        (gradient,) = gradients
        if ctx.small:
            rounded = cast(gradient, torch.float8_e5m2)
            given = int(gradient.count_nonzero())
            ctx.lost.append(1.0 - int(rounded.count_nonzero()) / given if given else 1.0)
            gradient = rounded
        return (gradient @ weights.mT) * ctx.scales[1], (inputs.mT @ gradient) * ctx.scales[2], None, None, None


@dataclasses.dataclass(frozen=True)
class Hyper:
    """Learning rate, and factors on branches, on attention's logits and on the output's, (copies,) each."""

    rate: Float[Tensor, " copies"]
    branch: Float[Tensor, " copies"]
    attention: Float[Tensor, " copies"]
    output: Float[Tensor, " copies"]

    @classmethod
    def of_rates(cls, rates: Tensor) -> Hyper:
        """These rates, and factors of one."""
        one = torch.ones_like(rates)
        return cls(rates, one, one, one)


@dataclasses.dataclass(frozen=True)
class Transformer:
    """One block of causal attention and a ReLU net, normalised before each part and before the output.

    `unit`: weights of variance 1; matrices over sqrt(fan-in), the output over its fan-in with gradients over
    sqrt(fan-out); branches weighted so that their sum has the variance of the embedding; Adam's rates are those of
    embeddings over sqrt(width), of matrices over sqrt(fan-in) and over the root of the number of branches, and the
    output's as it is. Otherwise weights have variance 1 / fan-in, embeddings 1, and one rate. `small` simulates
    training in 8 bits; `tokens` are those that the mean of the loss is taken over, which without unit scaling is the
    size of gradients; the steps of Adam do not see it.

    Source: Blake et al. 2024, arXiv:2407.17465, table 2 and the appendix on unit-scaled operations.
    """

    width: int
    unit: bool
    small: bool = False
    tokens: int = BATCH * LENGTH

    def drawn(self, copies: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Weights by name, (copies, in, out)."""
        wide = self.width
        shapes = {"embedding": (_CHARACTERS, wide), "positions": (LENGTH, wide)}
        shapes |= {name: (wide, wide) for name in ("query", "key", "value", "merge")}
        shapes |= {"up": (wide, 4 * wide), "down": (4 * wide, wide), "output": (wide, _CHARACTERS)}
        return {
            name: torch.randn(copies, *shape, generator=generator)
            / (1.0 if self.unit or name in ("embedding", "positions") else math.sqrt(shape[0]))
            for name, shape in shapes.items()
        }

    def rates(self) -> dict[str, float]:
        """Adam's rate of each tensor over the rate."""
        if not self.unit:
            return {}
        wide, inner = self.width, 1 / math.sqrt(2 * self.width)
        found = {name: inner for name in ("query", "key", "value", "merge", "up")}
        return found | {"down": inner / 2, "embedding": wide**-0.5, "positions": wide**-0.5}

    def losses(
        self,
        weights: dict[str, Tensor],
        inputs: Int[Tensor, "batch length"],
        targets: Int[Tensor, "batch length"],
        hyper: Hyper,
        watch: Callable[[str, Tensor], object] = lambda name, values: None,
        lost: list[float] | None = None,
    ) -> tuple[Float[Tensor, " copies"], Tensor]:
        """Mean cross-entropy of each copy, and what to differentiate: their sum, scaled."""
        copies, lost = len(hyper.rate), [] if lost is None else lost
        attention, output, branch = (part[:, None, None] for part in (hyper.attention, hyper.output, hyper.branch))

        def times(name: str, values: Tensor) -> Tensor:
            weight = weights[name]
            scales = (1.0, 1.0, 1.0)
            if self.unit:
                fan_in, fan_out = weight.shape[1:]
                root, ahead = fan_in**-0.5, fan_in**-1.0 if name == "output" else fan_in**-0.5
                back = fan_out**-0.5 if name in ("output", "up", "down") else root
                if name in ("query", "key"):  # undoes on the way to the stream what made their gradients one
                    back *= HEAD**-0.5
                scales = (ahead, back, values.shape[1] ** -0.5)
            outputs: Tensor = _Product.apply(values, weight, scales, self.small, lost)  # type: ignore[no-untyped-call]
            watch(name, outputs)
            return outputs

        def scaled(values: Tensor, ahead: float | Tensor, back: float | Tensor) -> Tensor:
            found: Tensor = _Scaled.apply(values, ahead, back) if self.unit else values  # type: ignore[no-untyped-call]
            return found

        def added(stream: Tensor, part: Callable[[Tensor], Tensor], index: int) -> Tensor:
            if not self.unit:
                return stream + branch * part(functional.rms_norm(stream, stream.shape[-1:]))
            share = branch.square() / 2
            weight = (share / (1 + index * share)).sqrt()
            whole = (1 + weight.square()).rsqrt()
            inside = scaled(stream, 1.0, weight * whole)
            inside = scaled(part(functional.rms_norm(inside, inside.shape[-1:])), weight * whole, 1.0)
            return stream * whole + inside

        def attend(signal: Tensor) -> Tensor:
            query, key, value = (
                scaled(times(name, signal), 1.0, factor).view(copies, BATCH, LENGTH, -1, HEAD).transpose(2, 3)
                for name, factor in (("query", math.sqrt(HEAD)), ("key", math.sqrt(HEAD)), ("value", 1.0))
            )
            logits = query @ key.mT * (attention[..., None, None] / (HEAD if self.unit else math.sqrt(HEAD)))
            hidden = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
            mixed = logits.masked_fill(hidden, -math.inf).softmax(-1) @ value
            mixed = scaled(mixed, _UNIFORM, _UNIFORM)
            return times("merge", mixed.transpose(2, 3).reshape(copies, BATCH * LENGTH, -1))

        def feed(signal: Tensor) -> Tensor:
            return times("down", scaled(torch.relu(times("up", signal)), math.sqrt(2.0), math.sqrt(2.0)))

        embedded, positions = weights["embedding"][:, inputs.flatten()], weights["positions"].repeat(1, BATCH, 1)
        stream = scaled(embedded, math.sqrt(0.5), math.sqrt(_CHARACTERS / (BATCH * LENGTH)))
        stream = stream + scaled(positions, math.sqrt(0.5), BATCH**-0.5)
        watch("stream", stream)
        stream = added(stream, attend, 0)
        stream = added(stream, feed, 1)
        watch("end", stream)
        logits = output * times("output", functional.rms_norm(stream, stream.shape[-1:]))
        seen = scaled(logits, 1.0, _CHARACTERS / math.sqrt(_CHARACTERS - 1))
        each = functional.cross_entropy(seen.flatten(0, 1), targets.flatten().repeat(copies), reduction="none")
        total = each.sum() / (1 if self.unit else self.tokens)
        return each.detach().view(copies, -1).mean(1), total


_UNIFORM = math.sqrt(LENGTH / sum(1 / position for position in range(1, LENGTH + 1)))
"""Of unit values averaged over all earlier positions, the mean square over positions is the mean of 1 / position."""


def train(
    model: Transformer, hyper: Hyper, windows: Callable[[int], Tensor], steps: int, generator: torch.Generator
) -> tuple[Float[Tensor, "steps copies"], float]:
    """Train copies that start alike by Adam, rates falling to 0; their losses, and the share of gradients that is lost.

    `windows(step)` are characters (batch, length + 1).
    """
    copies, factors = len(hyper.rate), model.rates()
    weights = {name: weight.repeat(copies, 1, 1) for name, weight in model.drawn(1, generator).items()}
    first, second = ({name: torch.zeros_like(weight) for name, weight in weights.items()} for _ in range(2))
    losses, lost = [], [0.0]
    for step in range(1, steps + 1):
        given = windows(step)
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        loss, total = model.losses(leaves, given[:, :-1], given[:, 1:], hyper, lost=lost)
        losses.append(loss)
        for (name, leaf), gradient in zip(
            leaves.items(), torch.autograd.grad(total, list(leaves.values())), strict=True
        ):
            first[name].lerp_(gradient, 1 - _BETAS[0])
            second[name].lerp_(gradient.square(), 1 - _BETAS[1])
            spread = (second[name] / (1 - _BETAS[1] ** step)).sqrt_().add_(_TINY)
            size = hyper.rate * (factors.get(name, 1.0) * (1 - (step - 1) / steps) / (1 - _BETAS[0] ** step))
            weights[name] = leaf.detach() - size[:, None, None] * first[name] / spread
    return torch.stack(losses), max(0.0, sum(lost) / max(1, len(lost) - 1))


def audit(model: Transformer, generator: torch.Generator) -> dict[str, float]:
    """Root mean squares at the start, by name, of activations, their gradients, weights and their gradients.

    Inputs and targets are drawn independently and alike, as unit scaling supposes. The outputs themselves are left out:
    the maximal update has them start at 1 / sqrt(width).
    """
    weights = {name: weight.requires_grad_() for name, weight in model.drawn(1, generator).items()}
    tokens = torch.randint(_CHARACTERS, (2, BATCH, LENGTH), generator=generator)
    seen: dict[str, Tensor] = {}
    _, total = model.losses(weights, tokens[0], tokens[1], Hyper.of_rates(torch.ones(1)), seen.__setitem__)
    names = [*seen, *(f"weight of {name}" for name in weights)]
    values = [*seen.values(), *weights.values()]
    gradients = torch.autograd.grad(total, values)
    found = {}
    for name, value, gradient in zip(names, values, gradients, strict=True):
        if name != "output":
            found[name] = float(value.detach().square().mean().sqrt())
        found[f"gradient of {name}"] = float(gradient.square().mean().sqrt())
    return found
