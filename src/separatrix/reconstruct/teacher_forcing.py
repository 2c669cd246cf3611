"""Teacher forcing of piecewise-linear networks: unrolled sequences with a gradient written by hand, and its strength.

A state z is drawn towards what was observed before each step, z~ = (1 - a) z + a x, so that the derivative of T steps
is the product of (1 - a) J_t and cannot grow where a >= 1 - 1 / max |J| (Hess, Monfared, Brenner and Durstewitz 2023,
arXiv:2306.04406, section 3.2). Sparse forcing has a = 1 at every n-th step and 0 between.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Estimator = Literal["bound", "maximum", "product", "mean"]
"""How `strength` measures the growth of perturbations a step."""


class _Unrolled(torch.autograd.Function):
    """States of a forced sequence; weight gradients are gathered over all steps at the end, in four products."""

    @staticmethod
    def forward(
        ctx: Any,
        linear: Tensor,
        outward: Tensor,
        inward: Tensor,
        threshold: Tensor,
        bias: Tensor,
        start: Tensor,
        observed: Tensor,
        strengths: tuple[float, ...],
    ) -> Tensor:
        steps, batch, seen = observed.shape
        states = observed.new_empty(steps, batch, bias.numel())
        forced, active = torch.empty_like(states), observed.new_empty(steps, batch, threshold.numel())
        a, v, w = linear.T.contiguous(), outward.T.contiguous(), inward.T.contiguous()
        previous = start
        for step, (state, drawn, unit) in enumerate(
            zip(states.unbind(), forced.unbind(), active.unbind(), strict=True)
        ):
            drawn.copy_(previous)
            if step and strengths[step - 1]:
                drawn[:, :seen].lerp_(observed[step - 1], strengths[step - 1])
            torch.addmm(threshold, drawn, w, out=unit).relu_()
            torch.addmm(bias, drawn, a, out=state).addmm_(unit, v)
            previous = state
        ctx.save_for_backward(linear, outward, inward, forced, active)
        ctx.strengths, ctx.seen = strengths, seen
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        linear, outward, inward, forced, active = ctx.saved_tensors
        deltas, units = gradient.clone(), torch.empty_like(active)
        each, unit = deltas.unbind(), units.unbind()
        alive = (active > 0).to(active.dtype).unbind()
        back = torch.empty_like(each[0])
        for step in range(len(each) - 1, -1, -1):
            torch.mm(each[step], outward, out=unit[step]).mul_(alive[step])
            torch.mm(each[step], linear, out=back).addmm_(unit[step], inward)
            if step:
                if ctx.strengths[step - 1]:
                    back[:, : ctx.seen].mul_(1 - ctx.strengths[step - 1])
                each[step - 1].add_(back)
        delta, state = deltas.flatten(0, 1), forced.flatten(0, 1)
        between, on = units.flatten(0, 1), active.flatten(0, 1)
        return (delta.T @ state, delta.T @ on, between.T @ state, between.sum(0), delta.sum(0), back, None, None)


def unrolled(
    linear: Float[Tensor, "state state"],
    outward: Float[Tensor, "state unit"],
    inward: Float[Tensor, "unit state"],
    threshold: Float[Tensor, " unit"],
    bias: Float[Tensor, " state"],
    start: Float[Tensor, "batch state"],
    observed: Float[Tensor, "time batch seen"],
    strengths: tuple[float, ...],
) -> Float[Tensor, "time batch state"]:
    """States after 1, 2, ... steps of z' = A z + V max(W z + h, 0) + b, forced between steps.

    `observed` are the values of the first `seen` coordinates at the times of those states, and `strengths`, one a
    time, how far they draw the state before the next step; that of the last time has no effect. Differentiable once, in
    the weights and in `start`.
    """
    states: Tensor = _Unrolled.apply(linear, outward, inward, threshold, bias, start, observed, strengths)  # type: ignore[no-untyped-call]
    return states


def derivatives(
    linear: Float[Tensor, "state state"],
    outward: Float[Tensor, "state unit"],
    inward: Float[Tensor, "unit state"],
    threshold: Float[Tensor, " unit"],
    states: Float[Tensor, "*rows state"],
) -> Float[Tensor, "*rows state state"]:
    """Derivatives of one step at those states."""
    alive = (states @ inward.T + threshold > 0).to(states.dtype)
    return linear + (outward * alive[..., None, :]) @ inward


def growth(jacobians: Float[Tensor, "time batch state state"], estimator: Estimator) -> float:
    """Growth of perturbations a step along sequences of derivatives, the largest of the batch.

    `maximum`: the largest spectral norm at any time, which bounds every product. `product`: the geometric mean over
    time of the norms, whose power bounds the norm of the product. `mean`: the norm of the mean derivative.
    """
    if estimator == "mean":
        return float(torch.linalg.matrix_norm(jacobians.mean(0), 2).max())
    norms = torch.linalg.matrix_norm(jacobians, 2)
    return float(norms.max() if estimator == "maximum" else norms.log().mean(0).exp().max())


def strength(growth_a_step: float) -> float:
    """The least forcing under which perturbations that grow so much a step do not grow: 1 - 1 / growth, at least 0."""
    return max(0.0, 1.0 - 1.0 / growth_a_step) if growth_a_step > 0 else 0.0


def annealed(before: float, estimate: float, memory: float) -> float:
    """Forcing that follows its estimate up at once, and down slowly: it keeps the share `memory` an update."""
    return estimate if estimate > before else memory * before + (1 - memory) * estimate


def sparse(steps: int, interval: int) -> tuple[float, ...]:
    """Strengths of forcing at every `interval`-th step (Mikhaeil, Monfared and Durstewitz 2022, arXiv:2110.07238)."""
    return tuple(float((step + 1) % interval == 0) for step in range(steps))


def product_norms(jacobians: Float[np.ndarray, "time state state"], forcing: float) -> Float[np.ndarray, " time"]:
    """Natural logarithms of the spectral norms of products of (1 - a) J over 1, 2, ... steps, without overflow."""
    product, grown, norms = np.eye(jacobians.shape[1]), 0.0, np.empty(len(jacobians))
    for step, jacobian in enumerate(jacobians):
        product = (1 - forcing) * jacobian @ product
        norm = np.linalg.norm(product, 2)
        if norm == 0:
            norms[step:] = -np.inf
            break
        product, grown = product / norm, grown + float(np.log(norm))
        norms[step] = grown
    return norms
