"""The reversible Heun method for ordinary, controlled and stochastic differential equations, with exact gradients.

One step advances z and a companion z^ (Kidger, Foster, Li and Lyons 2021, arXiv:2105.13493, algorithm 1; Kidger 2022,
arXiv:2202.02435, section 5.3.2) by

    z^' = 2 z - z^ + f(z^) dX,    z' = z + (f(z^) + f(z^')) dX / 2

and can be undone in closed form, so that the gradient of the discrete computation needs no stored states: memory is
independent of the number of steps, and the gradient that of backpropagation but for rounding. X is time for an ordinary
equation, data for a controlled one, time and Brownian motion for a stochastic one in the sense of Stratonovich.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Field = Callable[[Tensor], Tensor]
"""From states (batch, state) to derivatives by each control (batch, state, control)."""


_Current = tuple[Tensor, Tensor, Tensor]
"""A state, its companion, and the field there."""


def _product(field: Tensor, increment: Tensor) -> Tensor:
    return (field @ increment[..., None])[..., 0]


def _step(field: Field, state: Tensor, shadow: Tensor, slope: Tensor, increment: Tensor) -> _Current:
    ahead = 2 * state - shadow + _product(slope, increment)
    following = field(ahead)
    return state + _product(slope + following, increment) / 2, ahead, following


def _back(field: Field, state: Tensor, shadow: Tensor, slope: Tensor, increment: Tensor) -> _Current:
    behind = 2 * state - shadow - _product(slope, increment)
    before = field(behind)
    return state - _product(slope + before, increment) / 2, behind, before


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, field: Field, keep: tuple[int, ...], increments: Tensor, start: Tensor, *weights: Tensor
    ) -> Tensor:
        current: _Current = (start, start, field(start))
        kept = {0: start} if 0 in keep else {}
        for step, increment in enumerate(increments.unbind(), start=1):
            current = _step(field, *current, increment)
            if step in keep:
                kept[step] = current[0]
        ctx.field, ctx.keep = field, keep
        ctx.save_for_backward(increments, *current[:2], *weights)
        return torch.stack([kept[each] for each in keep])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        increments, state, shadow, *weights = ctx.saved_tensors
        field: Field = ctx.field
        given = dict(zip(ctx.keep, gradient.unbind(), strict=True))
        back: tuple[Tensor, ...] = (torch.zeros_like(state), torch.zeros_like(state), torch.zeros_like(field(shadow)))
        current: _Current = (state, shadow, field(shadow))
        totals = [torch.zeros_like(each) for each in weights]
        by_increment = torch.zeros_like(increments)
        for step in range(len(increments), 0, -1):
            increment = increments[step - 1]
            previous = _back(field, *current, increment)
            leaves = [each.detach().requires_grad_() for each in (*previous, increment)]
            with torch.enable_grad():
                after = _step(field, leaves[0], leaves[1], leaves[2], leaves[3])
            seeds = (back[0] + given[step] if step in given else back[0], *back[1:])
            found = torch.autograd.grad(after, [*leaves, *weights], seeds, allow_unused=True)
            back, by_increment[step - 1] = found[:3], found[3]
            totals = [total if each is None else total + each for total, each in zip(totals, found[4:], strict=True)]
            current = previous
        first = current[0].detach().requires_grad_()
        with torch.enable_grad():
            slope = field(first)
        found = torch.autograd.grad(slope, [first, *weights], back[2], allow_unused=True)
        totals = [total if each is None else total + each for total, each in zip(totals, found[1:], strict=True)]
        by_start = back[0] + back[1] + (found[0] if found[0] is not None else 0)
        return (None, None, by_increment, by_start + given[0] if 0 in given else by_start, *totals)


def reversible_heun(
    field: Field,
    weights: Sequence[Tensor],
    start: Float[Tensor, "batch state"],
    increments: Float[Tensor, "steps batch control"],
    *,
    keep: Sequence[int] | None = None,
    stored: bool = False,
) -> Float[Tensor, "kept batch state"]:
    """States after the steps named by `keep` (0 is the start), by default after the last one.

    `field` must depend on no tensor that needs a gradient but its argument and `weights`. Gradients reach weights,
    start and increments, once. With `stored`, plain backpropagation through stored steps: the same numbers, and memory
    that grows with the steps.
    """
    chosen = (len(increments),) if keep is None else tuple(keep)
    if not stored:
        return _Reversible.apply(field, chosen, increments, start, *weights)  # type: ignore[no-any-return,no-untyped-call]
    current: _Current = (start, start, field(start))
    states = [start]
    for increment in increments.unbind():
        current = _step(field, *current, increment)
        states.append(current[0])
    return torch.stack([states[each] for each in chosen])
