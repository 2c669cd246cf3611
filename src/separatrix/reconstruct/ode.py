"""Ordinary differential equations in torch: an adaptive solver that counts its work, and gradients by the adjoint.

The adaptive pair is that of Dormand and Prince (1980), orders 5 and 4, with step control as in Hairer, Nørsett and
Wanner, Solving Ordinary Differential Equations I, section II.4. The adjoint a = dL/dz obeys da/dt = -a df/dz backwards
in time, and dL/dw is the integral of a df/dw (Chen, Rubanova, Bettencourt and Duvenaud 2018, arXiv:1806.07366,
equations 4 and 5): states are recomputed, not stored.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from separatrix.runs.errors import SeparatrixError, UsageError

Field = Callable[[float, Tensor], Tensor]
"""From a time and a state to the state's derivative, of the same shape."""

_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_TABLEAU = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# Weights of order 5 less those of order 4.
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
_MOST_STEPS = 100_000


class SolverError(SeparatrixError):
    """An equation that the solver cannot follow with the tolerance it was given."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What a solution cost: evaluations of the field, steps that were taken, and steps that were tried in vain."""

    evaluations: int
    steps: int
    rejected: int


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """A step that was taken: from when and which state, how far, and the root mean square of its embedded error."""

    time: float
    state: Tensor
    length: float
    error: Tensor


def dormand_prince_step(
    field: Field, time: float, state: Tensor, slope: Tensor, step: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The state after one step, its derivative there, and the embedded error; `slope` is that at the start."""
    slopes = [slope]
    after = state
    for node, row in zip(_NODES[1:], _TABLEAU, strict=True):
        after = state + step * _combined(row, slopes)
        slopes.append(field(time + node * step, after))
    return after, slopes[-1], step * _combined(_ERROR, slopes)


def _combined(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    terms = [weight * slope for weight, slope in zip(weights, slopes, strict=False) if weight]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _scaled(error: Tensor, before: Tensor, after: Tensor, rtol: float, atol: float) -> float:
    scale = atol + rtol * torch.maximum(before.detach().abs(), after.detach().abs())
    return float((error.detach() / scale).square().mean().sqrt())


def solve(
    field: Field,
    start: Float[Tensor, "*rows state"],
    times: Sequence[float],
    *,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    seen: Callable[[Step], object] | None = None,
) -> tuple[Float[Tensor, "times *rows state"], Work]:
    """States at those times, the first of which is that of `start`, and the work; differentiable through every step.

    Times rise or fall. One step size serves the whole batch: the error is a root mean square over all numbers. `seen`
    is called with each step that is taken, whose error is differentiable too.

    Raises:
        UsageError: there are no two times, or they turn back.
        SolverError: the state is no longer finite, or steps became too small or too many.
    """
    gaps = [after - before for before, after in itertools.pairwise(times)]
    if not gaps or not (all(gap > 0 for gap in gaps) or all(gap < 0 for gap in gaps)):
        raise UsageError(f"times {list(times)[:4]} do not go one way: give two or more, rising or falling")
    if not (rtol > 0 and atol > 0):
        raise UsageError(f"rtol={rtol}, atol={atol}: give positive tolerances")
    slope = field(times[0], start)
    proposed = _first_step(field, times[0], start, slope, gaps[0], rtol, atol)
    state, states, evaluations, taken, rejected = start, [start], 2, 0, 0
    for time, end in itertools.pairwise(times):
        while time != end:
            last = abs(proposed) >= abs(end - time)
            step = end - time if last else proposed
            after, following, error = dormand_prince_step(field, time, state, slope, step)
            evaluations += 6
            ratio = _scaled(error, state, after, rtol, atol)
            ratio = ratio if math.isfinite(ratio) else math.inf
            if time + step == time or taken + rejected > _MOST_STEPS:
                raise SolverError(
                    f"the equation cannot be followed at time {time:g} with steps of {step:g}: loosen rtol={rtol:g} and"
                    f" atol={atol:g}, or end before"
                )
            factor = min(5.0, max(0.2, 0.9 * max(ratio, 1e-10) ** -0.2))
            if ratio <= 1:
                if seen is not None:
                    seen(Step(time, state, step, error.square().mean().sqrt()))
                time, state, slope = end if last else time + step, after, following
                taken += 1
                proposed = proposed if last and abs(step * factor) < abs(proposed) else step * factor
            else:
                proposed = step * factor
                rejected += 1
        states.append(state)
    return torch.stack(states), Work(evaluations, taken, rejected)


def _first_step(
    field: Field, time: float, state: Tensor, slope: Tensor, span: float, rtol: float, atol: float
) -> float:
    """A first step with an error of about a hundredth (Hairer, Nørsett and Wanner, section II.4)."""
    scale = atol + rtol * state.detach().abs()
    size, speed = (float((each.detach() / scale).square().mean().sqrt()) for each in (state, slope))
    guess = 0.01 * size / speed if size > 1e-5 and speed > 1e-5 else 1e-6
    sign = 1.0 if span > 0 else -1.0
    bend = field(time + sign * guess, state + sign * guess * slope) - slope
    bent = float((bend.detach() / scale).square().mean().sqrt()) / guess
    curved = max(speed, bent)
    second = (0.01 / curved) ** 0.2 if curved > 1e-15 else max(1e-6, guess * 1e-3)
    return sign * min(100 * guess, second, abs(span))


def runge_kutta(
    field: Field, start: Float[Tensor, "*rows state"], step: float, steps: int, *, within: int = 1
) -> Float[Tensor, "{steps}+1 *rows state"]:
    """States at even times by the classical method of order 4, `within` steps of it between two."""
    states, state, time, small = [start], start, 0.0, step / within
    for _ in range(steps):
        for _ in range(within):
            first = field(time, state)
            second = field(time + small / 2, state + small / 2 * first)
            third = field(time + small / 2, state + small / 2 * second)
            fourth = field(time + small, state + small * third)
            state = state + small / 6 * (first + 2 * second + 2 * third + fourth)
            time += small
        states.append(state)
    return torch.stack(states)


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, field: Field, times: tuple[float, ...], rtol: float, atol: float, start: Tensor, *weights: Tensor
    ) -> Tensor:
        states, _ = solve(field, start, times, rtol=rtol, atol=atol)
        ctx.field, ctx.times, ctx.tolerances = field, times, (rtol, atol)
        ctx.save_for_backward(states, *weights)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, *weights = ctx.saved_tensors
        shape, size = states.shape[1:], states[0].numel()
        rtol, atol = ctx.tolerances

        def backwards(time: float, joint: Tensor) -> Tensor:
            state = joint[:size].view(shape).detach().requires_grad_()
            with torch.enable_grad():
                slope = ctx.field(time, state)
            found = torch.autograd.grad(
                slope, [state, *weights], -joint[size : 2 * size].view(shape), allow_unused=True
            )
            pulled = [
                torch.zeros_like(leaf) if each is None else each
                for leaf, each in zip((state, *weights), found, strict=True)
            ]
            return torch.cat([slope.detach().reshape(-1), *(each.reshape(-1) for each in pulled)])

        weighed = sum(weight.numel() for weight in weights)
        joint = torch.cat([states[-1].reshape(-1), gradient[-1].reshape(-1), gradient.new_zeros(weighed)])
        for index in range(len(ctx.times) - 1, 0, -1):
            span = (ctx.times[index], ctx.times[index - 1])
            joint = solve(backwards, joint, span, rtol=rtol, atol=atol)[0][-1].clone()
            joint[:size] = states[index - 1].reshape(-1)
            joint[size : 2 * size] += gradient[index - 1].reshape(-1)
        parts = torch.split(joint[2 * size :], [weight.numel() for weight in weights])
        by_weight = [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]
        return (None, None, None, None, joint[size : 2 * size].view(shape), *by_weight)


def solve_adjoint(
    field: Field,
    weights: Sequence[Tensor],
    start: Float[Tensor, "*rows state"],
    times: Sequence[float],
    *,
    rtol: float = 1e-6,
    atol: float = 1e-9,
) -> Float[Tensor, "times *rows state"]:
    """`solve` with gradients by the adjoint equation: memory does not grow with steps, errors fall with the tolerance.

    `field` must depend on no tensor that needs a gradient but its argument and `weights`.
    """
    states: Tensor = _Adjoint.apply(field, tuple(times), rtol, atol, start, *weights)  # type: ignore[no-untyped-call]
    return states


def local_error(field: Field, time: float, state: Float[Tensor, "*rows state"], step: float) -> Float[Tensor, ""]:
    """Root mean square of the embedded error of one step, over the step: small where the equation is easy to follow.

    At a random time of a solution, added to a loss, it teaches equations that need fewer evaluations (Pal, Edelman and
    Rackauckas 2023, arXiv:2303.02262). From a state without its history it needs no gradient of the solver's own, so
    that the loss's may be taken by the adjoint as well.
    """
    error = dormand_prince_step(field, time, state, field(time, state), step)[2]
    return (error / step).square().mean().sqrt()
