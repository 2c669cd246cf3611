"""Teacher forcing against autograd, finite differences and the theorem that bounds it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.reconstruct.test_piecewise_linear import drawn
from torch import Tensor

from separatrix.reconstruct.teacher_forcing import (
    annealed,
    derivatives,
    growth,
    product_norms,
    sparse,
    strength,
    unrolled,
)


def _weights(state: int, units: int, batch: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((state, state), (state, units), (units, state), (units,), (state,), (batch, state))
    return [torch.randn(*each, dtype=torch.float64, generator=generator).requires_grad_() for each in shapes]


def _literally(weights: list[Tensor], observed: Tensor, strengths: tuple[float, ...]) -> Tensor:
    linear, outward, inward, threshold, bias, state = weights
    states = []
    for seen, drawn_by in zip(observed, strengths, strict=True):
        after = state @ linear.T + torch.relu(state @ inward.T + threshold) @ outward.T + bias
        states.append(after)
        known = after[:, : seen.shape[1]]
        state = torch.cat([(1 - drawn_by) * known + drawn_by * seen, after[:, seen.shape[1] :]], 1)
    return torch.stack(states)


@pytest.mark.parametrize("strengths", [(0.3, 0.0, 1.0, 0.2, 0.5, 0.0), (0.0,) * 6, (1.0,) * 6])
@pytest.mark.parametrize("seen", [2, 3])
def test_states_and_gradients_are_those_of_autograd(strengths: tuple[float, ...], seen: int) -> None:
    weights = _weights(3, 4, 2)
    observed = torch.randn(6, 2, seen, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    states, expected = unrolled(*weights, observed, strengths), _literally(weights, observed, strengths)
    torch.testing.assert_close(states, expected, rtol=1e-12, atol=1e-12)
    mixed = torch.randn(states.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad((states * mixed).sum(), weights)
    for ours, theirs in zip(found, torch.autograd.grad((expected * mixed).sum(), weights), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_derivatives_are_those_of_the_step() -> None:
    weights = _weights(3, 5, 4)
    expected = torch.autograd.functional.jacobian(
        lambda state: unrolled(*weights[:5], state, torch.zeros(1, 4, 3, dtype=torch.float64), (0.0,))[0], weights[5]
    )
    found = derivatives(*weights[:4], weights[5])
    torch.testing.assert_close(found, torch.stack([expected[row, :, row] for row in range(4)]))


def test_growth_orders_its_estimators_and_bounds_products() -> None:
    jacobians = torch.randn(12, 5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    largest, product, mean = (growth(jacobians, kind) for kind in ("maximum", "product", "mean"))
    assert mean < product < largest
    norms = [max(product_norms(jacobians[:, row].numpy(), 0.0)) for row in range(5)]
    assert all(norm <= 12 * math.log(largest) + 1e-9 for norm in norms)
    whole = [torch.linalg.multi_dot(tuple(jacobians[:, row].flip(0))) for row in range(5)]
    exact = torch.stack([torch.linalg.matrix_norm(each, 2) for each in whole]).log()
    ends = [product_norms(jacobians[:, row].numpy(), 0.0)[-1] for row in range(5)]
    np.testing.assert_allclose(ends, exact.numpy(), atol=1e-9)
    assert (exact <= 12 * math.log(product) + 1e-9).all()


def test_products_are_bounded_from_the_forcing_that_the_largest_growth_gives() -> None:
    system = drawn(3, 8, seed=4)
    states = system.orbit(np.random.default_rng(0).standard_normal((1, 3)), 300)[:, 0] % 3.0
    jacobians = system.jacobian(system.pattern(states))
    largest = float(np.linalg.norm(jacobians, 2, axis=(1, 2)).max())
    assert largest > 1
    assert product_norms(jacobians, strength(largest)).max() <= 1e-12
    assert product_norms(jacobians, 0.0)[-1] > 30  # the same products grow without forcing
    assert product_norms(jacobians, 1.0)[0] == -math.inf


def test_strength_and_annealing() -> None:
    assert (strength(2.0), strength(1.0), strength(0.5), strength(0.0)) == (0.5, 0.0, 0.0, 0.0)
    assert annealed(0.2, 0.4, 0.9) == 0.4
    assert annealed(0.4, 0.2, 0.9) == pytest.approx(0.38)
    assert sparse(6, 3) == (0.0, 0.0, 1.0, 0.0, 0.0, 1.0)
