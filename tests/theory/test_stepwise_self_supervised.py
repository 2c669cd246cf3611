"""Stepwise self-supervision: the closed form against integration, the gradient, random starts, and kernel PCA."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from separatrix.theory.stepwise_self_supervised import (
    cross_covariance,
    descend,
    effective_start,
    final_representation,
    step_times,
    strengths,
)

EIGENVALUES, START = np.array([1.0, 0.4, 0.15]), np.array([0.02, 0.05, 0.01])


def test_the_closed_form_solves_the_flow_of_the_modes() -> None:
    times = np.linspace(0.0, 12.0, 7)
    solved = solve_ivp(
        lambda _, s: 4 * EIGENVALUES * s * (1 - EIGENVALUES * s**2), (0, 12), START, t_eval=times, rtol=1e-11, atol=0
    )
    np.testing.assert_allclose(strengths(EIGENVALUES, START, times), solved.y.T, rtol=1e-8)


def test_modes_are_half_learned_at_their_step_times_and_end_on_their_plateaus() -> None:
    times = step_times(EIGENVALUES, START)
    half = np.diag(strengths(EIGENVALUES, START, times))
    np.testing.assert_allclose(EIGENVALUES * half**2, 0.5, rtol=1e-3)
    np.testing.assert_allclose(strengths(EIGENVALUES, START, np.array([1e4]))[0], EIGENVALUES**-0.5)
    np.testing.assert_allclose(strengths(EIGENVALUES, START, np.array([0.0]))[0], START)


def test_descent_follows_the_gradient_of_the_loss_of_data() -> None:
    draw = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 30, 5, dtype=torch.float64, generator=draw)
    weights = torch.randn(3, 5, dtype=torch.float64, generator=draw, requires_grad=True)
    embedded, other = one @ weights.T, two @ weights.T
    product = embedded.T @ other / 30
    loss = ((product + product.T) / 2 - torch.eye(3)).square().sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    gamma = cross_covariance(one.numpy(), two.numpy())
    start = weights.detach().numpy()
    np.testing.assert_allclose(descend(start, gamma, 0.01, [1])[0], start - 0.01 * gradient.numpy(), atol=1e-10)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_small_random_start_acts_as_its_triangular_part(seed: int) -> None:
    """The course of the loss against that of the effective aligned start, for well separated modes."""
    generator = np.random.default_rng(seed)
    gamma = np.diag([1.0, 0.3, 0.1, 0.02])
    start = 1e-4 * generator.standard_normal((2, 4))
    steps = list(range(0, 7500, 50))
    course = descend(start, gamma, 0.002, steps)
    seen = ((np.einsum("sei,ij,sfj->sef", course, gamma, course) - np.eye(2)) ** 2).sum((1, 2))
    singular = strengths(np.array([1.0, 0.3]), effective_start(start, np.eye(4)), 0.002 * np.array(steps))
    predicted = ((1 - np.array([1.0, 0.3]) * singular**2) ** 2).sum(1)
    assert np.abs(seen - predicted).max() < 0.03
    assert seen[-1] < 1e-3


def test_the_end_is_a_kernel_pca_of_the_cross_view_kernel() -> None:
    """Against a long descent in the features of the kernel (1 + x y)^2, from a small random start."""
    generator = np.random.default_rng(3)
    shared = generator.standard_normal((24, 2)) * [1.0, 0.3]
    views = np.concatenate([shared + 0.3 * generator.standard_normal((24, 2)) for _ in range(2)])

    def features(x: np.ndarray) -> np.ndarray:
        first, second = x.T
        terms = (np.ones(len(x)), 2**0.5 * first, 2**0.5 * second, first**2, second**2, 2**0.5 * first * second)
        return np.stack(terms, 1)

    kernel = (1 + views @ views.T) ** 2
    np.testing.assert_allclose(features(views) @ features(views).T, kernel)
    eigenvalues, coefficients = final_representation(kernel, 2)
    gamma = cross_covariance(features(views[:24]), features(views[24:]))
    np.testing.assert_allclose(eigenvalues, np.sort(np.linalg.eigvalsh(gamma))[::-1][:2], rtol=1e-8)
    start = 1e-8 * generator.standard_normal((2, 6))
    end = descend(start, gamma, 0.1 / eigenvalues[0], [3000])[0]
    fresh = generator.standard_normal((5, 2))
    learned = features(fresh) @ end.T
    predicted = (1 + fresh @ views.T) ** 2 @ coefficients.T
    np.testing.assert_allclose(learned @ learned.T, predicted @ predicted.T, rtol=1e-3, atol=1e-3)
