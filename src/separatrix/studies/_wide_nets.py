"""Perceptrons of any width that classify digits, many copies at once, whose layers have learning rates of their own."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from separatrix.steer import Rule, parametrize
from separatrix.tasks.digits import Digits

INPUTS, CLASSES, LAYERS = 64, 10, 3
_BETAS = (0.9, 0.99)
_TINY = 1e-30  # in place of Adam's epsilon, which has no part in a comparison of widths
_MEAN, _DEVIATION = 0.305, 0.376


def module(width: int) -> nn.Sequential:
    """Two hidden layers of ReLU units without biases, on the meta device."""
    sides = (INPUTS, width, width, CLASSES)
    parts: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sides):
        parts += [nn.Linear(fan_in, fan_out, bias=False, device="meta"), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


@dataclasses.dataclass(frozen=True)
class Factors:
    """Initial root mean squares, multipliers and learning rates of the three layers; rates are over the base net's."""

    initial: tuple[float, ...]
    multipliers: tuple[float, ...]
    rates: tuple[float, ...]


def factors(width: int, base: int, rule: str | Rule, optimizer: type[torch.optim.Optimizer]) -> Factors:
    """What `rule` makes of a net of `width` whose base has initial variances of 1 / fan-in and one rate."""
    scaled = parametrize(module(width), base=module(base), delta=module(2 * base), rule=rule, initialize=False)
    found = list(scaled.factors(optimizer).values())
    roots = [math.sqrt(fan) for fan in (INPUTS, base, base)]
    return Factors(
        tuple(each.initial if each.absolute else each.initial / root for each, root in zip(found, roots, strict=True)),
        tuple(each.multiplier for each in found),
        tuple(each.rate for each in found),
    )


@dataclasses.dataclass(frozen=True)
class Data:
    """Standardised digits (examples, 64) and their classes."""

    inputs: Float[Tensor, "examples inputs"]
    classes: Int[Tensor, " examples"]


def digits(seed: int) -> Data:
    """The training images."""
    fitted, _ = Digits(seed=seed).load()
    return Data(((fitted.inputs - _MEAN) / _DEVIATION).float().flatten(1), fitted.targets)


def drawn(width: int, scales: Factors, copies: int, generator: torch.Generator) -> list[Tensor]:
    """Weights (copies, in, out) of the three layers."""
    sides = (INPUTS, width, width, CLASSES)
    return [
        scale * torch.randn(copies, fan_in, fan_out, generator=generator)
        for fan_in, fan_out, scale in zip(sides[:-1], sides[1:], scales.initial, strict=True)
    ]


def layers(weights: Sequence[Tensor], inputs: Tensor, multipliers: Sequence[float] = (1.0,) * LAYERS) -> list[Tensor]:
    """What goes into each layer, and the outputs: (copies, batch, units) each."""
    seen = [inputs.expand(len(weights[0]), *inputs.shape[-2:])]
    for index, (weight, factor) in enumerate(zip(weights, multipliers, strict=True)):
        outputs = factor * (seen[-1] @ weight)
        seen.append(torch.relu(outputs) if index < LAYERS - 1 else outputs)
    return seen


def train(
    weights: Sequence[Tensor],
    rates: Float[Tensor, " copies"],
    scales: Factors,
    data: Data,
    *,
    steps: int,
    batch: int,
    generator: torch.Generator,
    adaptive: bool = True,
) -> tuple[list[Tensor], Float[Tensor, "steps copies"]]:
    """Train all copies on the same batches, at rates falling to 0; the weights, and the losses of the batches."""
    weights = [weight.clone() for weight in weights]
    first, second = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    losses = []
    for step in range(1, steps + 1):
        rows = torch.randint(len(data.classes), (batch,), generator=generator)
        leaves = [weight.requires_grad_() for weight in weights]
        outputs = layers(leaves, data.inputs[rows], scales.multipliers)[-1]
        each = functional.cross_entropy(
            outputs.flatten(0, 1), data.classes[rows].repeat(len(outputs)), reduction="none"
        ).view(len(outputs), -1)
        gradients = torch.autograd.grad(each.mean(1).sum(), leaves)
        losses.append(each.detach().mean(1))
        weights = [weight.detach() for weight in weights]
        for index, gradient in enumerate(gradients):
            rate = (rates * scales.rates[index] * (1 - (step - 1) / steps))[:, None, None]
            if adaptive:
                first[index].lerp_(gradient, 1 - _BETAS[0])
                second[index].lerp_(gradient.square(), 1 - _BETAS[1])
                spread = (second[index] / (1 - _BETAS[1] ** step)).sqrt_().add_(_TINY)
                gradient = first[index] / spread / (1 - _BETAS[0] ** step)
            weights[index] -= rate * gradient
    return weights, torch.stack(losses)


def best_rate(rates: Float[Tensor, " rates"], losses: Float[Tensor, " rates"]) -> float:
    """log2 of the best rate, by a parabola through the least loss and its neighbours; at an end of the grid, that."""
    losses = losses.where(losses.isfinite(), torch.full_like(losses, 1e9)).clamp(max=1e9)
    least, powers = int(losses.argmin()), rates.log2()
    if not 0 < least < len(losses) - 1:
        return float(powers[least])
    low, middle, high = (float(value) for value in losses[least - 1 : least + 2].log())
    bend = low - 2 * middle + high
    shift = 0.5 * (low - high) / bend if bend > 0 else 0.0
    return float(powers[least]) + shift * float(powers[1] - powers[0])
