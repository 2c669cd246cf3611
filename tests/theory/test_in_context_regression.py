"""The reduced flow against gradient flow of whole matrices in a basis of no meaning, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import ortho_group

from separatrix.tasks import InContextRegression
from separatrix.theory.in_context_gradient_step import moments
from separatrix.theory.in_context_regression import flow, isotropic_strength, largest_curvature, optimum

D, N = 4, 10
TASK = InContextRegression(dimension=D, length=N, decay=0.8, dtype=torch.float64)
SPECTRUM = np.arange(1.0, D + 1) ** -0.8
GAMMA = (1 + 1 / N) * np.diag(SPECTRUM) + SPECTRUM.sum() / N * np.eye(D)


def start(seed: int, scale: float) -> np.ndarray:
    half = np.random.default_rng(seed).standard_normal((D, D))
    return scale * half @ half.T / np.linalg.norm(half @ half.T)


def test_the_flow_is_that_of_the_population_loss_in_any_basis() -> None:
    """L = tr(v^2 Gamma Lambda U Lambda U' - 2 v Lambda^2 U + Lambda) / 2, differentiated by autograd."""
    basis = ortho_group.rvs(D, random_state=0)
    covariance, gamma = (torch.from_numpy(basis @ m @ basis.T) for m in (np.diag(SPECTRUM), GAMMA))

    def velocity(time: float, state: np.ndarray) -> np.ndarray:
        leaf = torch.from_numpy(state).requires_grad_()
        u, v = leaf[:-1].view(D, D), leaf[-1]
        loss = 0.5 * torch.trace(v**2 * gamma @ covariance @ u @ covariance @ u.T - 2 * v * covariance @ covariance @ u)
        return -torch.autograd.grad(loss, leaf)[0].numpy()

    first, times = start(1, 0.3), np.array([0.0, 1.0, 3.0, 10.0, 30.0])
    state = np.append(basis @ first @ basis.T, np.linalg.norm(first))
    path = solve_ivp(velocity, (0, times[-1]), state, method="RK45", t_eval=times, rtol=1e-9, atol=1e-11)
    layer = flow(moments(TASK), float(np.linalg.norm(first)), first, times)
    for k in range(len(times)):
        matrix = basis.T @ path.y[:-1, k].reshape(D, D) @ basis
        np.testing.assert_allclose(layer.key_query[k], matrix, atol=1e-7)
        assert layer.value[k] == pytest.approx(path.y[-1, k], abs=1e-7)


def test_the_limit_is_the_global_minimum_of_the_paper() -> None:
    inverse = np.linalg.inv(GAMMA)
    value, key_query = optimum(moments(TASK))
    assert value == pytest.approx(np.trace(inverse @ inverse) ** 0.25, rel=1e-12)
    np.testing.assert_allclose(key_query, inverse / np.trace(inverse @ inverse) ** 0.25, rtol=1e-12)
    spectrum = np.diag(SPECTRUM)
    least = 0.5 * (SPECTRUM.sum() - np.trace(spectrum @ spectrum @ inverse))
    assert moments(TASK).least_loss == pytest.approx(least, rel=1e-12)
    layer = flow(moments(TASK), 0.1, start(2, 0.1), np.array([2000.0]))
    np.testing.assert_allclose(layer.step[0], inverse, atol=1e-7)


def test_equal_variances_give_a_logistic_curve() -> None:
    seen = moments(InContextRegression(dimension=D, length=N, covariate_scale=1.2, dtype=torch.float64))
    times, u = np.linspace(0, 4, 9), 0.05
    layer = flow(seen, u * D**0.5, u * np.eye(D), times)
    expected = isotropic_strength(seen, u**2 * D**0.5, times)
    np.testing.assert_allclose(layer.step[:, 0, 0], expected, rtol=1e-7)
    assert expected[0] < 0.01 < 0.4 < expected[-1]


def test_the_largest_curvature_is_that_of_the_whole_hessian() -> None:
    seen = moments(TASK)
    curvature, cross = torch.from_numpy(seen.curvature), torch.from_numpy(seen.cross)

    def loss(state: torch.Tensor) -> torch.Tensor:
        u, v = state[:-1].view(D, D), state[-1]
        return 0.5 * (v**2 * (curvature * u**2).sum() - 2 * v * cross @ u.diagonal())

    value, key_query = optimum(seen)
    at = torch.from_numpy(np.append(key_query, value))
    hessian = torch.autograd.functional.hessian(loss, at)
    assert largest_curvature(seen) == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-10)


def test_the_other_blocks_have_no_gradient() -> None:
    """Of the literal layer E + V E (E' M E) / n at the paper's start, on average over prompts drawn."""
    tokens, targets = TASK.sample(40_000, 0)
    read, match = torch.zeros(2, 40_000, D + 1, D + 1, dtype=torch.float64)
    read[:, -1, -1] = 0.5
    match[:, :D, :D] = torch.from_numpy(start(3, 0.5))
    leaves = [read.requires_grad_(), match.requires_grad_()]
    state = (leaves[0][:, -1:] @ (tokens.mT @ tokens))[:, 0] / N
    loss = ((state * (leaves[1] @ tokens[:, -1, :, None])[..., 0]).sum(1) - targets).square().sum() / 2
    by_read, by_match = torch.autograd.grad(loss, leaves)
    error = 5 / 40_000**0.5
    for silent in (by_read[:, -1, :D], by_match[:, D, :D]):
        assert (silent.mean(0).abs() < error * silent.std(0)).all()
    assert not by_match[:, :, D].any()
    assert abs(float(by_read[:, D, D].mean())) > error * float(by_read[:, D, D].std())
    assert (by_match[:, :D, :D].mean(0).diagonal().abs() > error * by_match[:, :D, :D].std(0).diagonal()).all()
