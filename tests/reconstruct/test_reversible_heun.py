"""The reversible method: exact gradients, memory that does not grow, and its orders of convergence."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from separatrix.reconstruct.reversible_heun import reversible_heun


def _case(steps: int, controls: int, seed: int = 0) -> tuple[list[Tensor], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(*s, dtype=torch.float64, generator=generator) for s in ((4 * controls, 4), (4 * controls,))]
    start = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    increments = torch.randn(steps, 3, controls, dtype=torch.float64, generator=generator) / steps**0.5 / 2
    return [each.requires_grad_() for each in weights], start.requires_grad_(), increments.requires_grad_()


def _field(weights: list[Tensor], controls: int):  # type: ignore[no-untyped-def]
    return lambda state: torch.tanh(state @ weights[0].T + weights[1]).unflatten(1, (4, controls))


@pytest.mark.parametrize(("steps", "keep"), [(1, None), (60, None), (60, (0, 7, 8, 60)), (9, (0,))])
@pytest.mark.parametrize("controls", [1, 3])
def test_gradients_are_those_of_backpropagation_to_rounding(
    steps: int, keep: tuple[int, ...] | None, controls: int
) -> None:
    weights, start, increments = _case(steps, controls)
    leaves = [*weights, start, increments]
    results = []
    for stored in (False, True):
        states = reversible_heun(_field(weights, controls), weights, start, increments, keep=keep, stored=stored)
        loss = (states * torch.linspace(1, 2, states.numel(), dtype=torch.float64).view_as(states)).square().sum()
        results.append((states, torch.autograd.grad(loss, leaves, allow_unused=True)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0)
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        expected = torch.zeros_like(ours) if theirs is None else theirs
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)


def _saved(steps: int, stored: bool) -> int:
    """Bytes that are kept for the way back."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights, start, increments = _case(steps, 1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = reversible_heun(_field(weights, 1), weights, start, increments.detach(), stored=stored)
    own = increments.untyped_storage().data_ptr()
    assert states.requires_grad
    return sum(size for place, size in kept.items() if place != own)


def test_memory_grows_with_steps_only_where_states_are_stored() -> None:
    assert _saved(400, False) == _saved(25, False)
    assert _saved(400, True) > 10 * _saved(25, True)


def test_order_two_for_an_ordinary_equation() -> None:
    errors = []
    for steps in (20, 40, 80, 160):
        increments = torch.full((steps, 1, 1), 2.0 / steps, dtype=torch.float64)
        field = lambda state: torch.stack([state[:, 1], -state[:, 0]], 1)[..., None]  # noqa: E731
        start = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        after = reversible_heun(field, (), start, increments)[0, 0]
        errors.append(float((after - torch.tensor([math.cos(2.0), -math.sin(2.0)], dtype=torch.float64)).norm()))
    rates = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(abs(rate - 2) < 0.15 for rate in rates)


def test_stratonovich_noise_is_followed_along_one_path() -> None:
    # dz = s z o dW has the solution exp(s W).
    generator = torch.Generator().manual_seed(0)
    fine = torch.randn(4096, 200, 1, dtype=torch.float64, generator=generator) / 64
    exact = torch.exp(0.5 * fine.sum(0))
    errors = []
    for every in (64, 16, 4):
        coarse = fine.view(-1, every, 200, 1).sum(1)
        after = reversible_heun(
            lambda state: 0.5 * state[..., None], (), torch.ones(200, 1, dtype=torch.float64), coarse
        )
        errors.append(float((after[0] - exact).square().mean().sqrt()))
    rates = [math.log(a / b) / math.log(4) for a, b in itertools.pairwise(errors)]
    # A single noise commutes with itself: strong order 1, where 1/2 is promised in general (Kidger et al. 2021).
    assert all(0.85 < rate < 1.2 for rate in rates)
