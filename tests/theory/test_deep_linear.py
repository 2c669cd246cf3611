"""Curves of deep linear nets against the equations integrated, closed forms, autograd and what descent conserves."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate

from separatrix.tasks import SemanticHierarchy
from separatrix.theory import TheoryError
from separatrix.theory.deep_linear import (
    THEORY,
    aligned_layers,
    clock,
    coupled_map,
    decoupled_layers,
    descend,
    gaussian_layers,
    input_output_modes,
    mode_strengths,
    orthogonal_layers,
    pretrained_layers,
    product,
    random_orthogonal,
    time_to_share,
)

DOUBLE = torch.float64
START, CORRELATION, VARIANCE = np.array([0.02, 0.05, 0.001]), np.array([1.0, 0.6, 0.4]), np.array([1.0, 0.3, 2.0])


@pytest.mark.parametrize("depth", [1, 3, 4, 7, 40, math.inf])
def test_the_clock_is_its_integral(depth: float) -> None:
    for log_odds in (-9.0, -0.3, 0.2, 1.5, 30.0):
        expected, _ = integrate.quad(lambda h: (1 + math.exp(-h)) ** (1 - 2 / depth), 0.0, log_odds, epsrel=1e-12)
        found = clock(np.array([log_odds]), depth) - clock(np.zeros(1), depth)
        assert float(found[0]) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 8])
def test_curves_solve_the_equations_of_all_layers(depth: int) -> None:
    """Integrated for each layer's number, so that balance is not put in."""

    def flow(time: float, layers: np.ndarray) -> np.ndarray:
        a = layers.reshape(depth, -1)
        missing = CORRELATION - VARIANCE * a.prod(0)
        return np.concatenate([missing * np.delete(a, layer, 0).prod(0) for layer in range(depth)])

    time = np.linspace(0.0, float(time_to_share(0.9, START, CORRELATION, VARIANCE, depth).max()), 30)
    first = np.tile(START ** (1 / depth), depth)
    run = integrate.solve_ivp(flow, (0.0, time[-1]), first, "Radau", time, rtol=1e-9, atol=1e-12)
    expected = run.y.reshape(depth, 3, -1).prod(0).T
    found = mode_strengths(START, CORRELATION, VARIANCE, depth, time)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_two_layers_follow_the_logistic_curve_and_its_transition_time() -> None:
    time = np.linspace(0.0, 30.0, 7)
    growth = np.exp(2 * CORRELATION * time[:, None])
    expected = CORRELATION / VARIANCE * growth / (growth - 1 + CORRELATION / VARIANCE / START)
    np.testing.assert_allclose(mode_strengths(START, CORRELATION, VARIANCE, 2, time), expected, rtol=1e-12)
    half = np.log(CORRELATION / VARIANCE / START - 1) / (2 * CORRELATION)
    np.testing.assert_allclose(time_to_share(0.5, START, CORRELATION, VARIANCE, 2), half, rtol=1e-12)


def test_very_deep_nets_approach_the_finite_delay_of_infinitely_deep_ones() -> None:
    limit = time_to_share(0.9, START, CORRELATION, VARIANCE, math.inf)
    delays = [depth * time_to_share(0.9, START, CORRELATION, VARIANCE, depth) for depth in (10, 100, 1000, 10000)]
    gaps = [float(np.abs(delay / limit - 1).max()) for delay in delays]
    assert gaps[-1] < 2e-3 and all(later < earlier / 5 for earlier, later in itertools.pairwise(gaps))
    # The closed form of the paper's section 1.3 for infinitely many layers.
    u, s, v = 0.9 * CORRELATION / VARIANCE, CORRELATION / VARIANCE, START
    expected = (np.log(u * (v - s) / (v * (u - s))) / s**2 + 1 / (s * v) - 1 / (s * u)) / VARIANCE
    np.testing.assert_allclose(limit, expected, rtol=1e-12)


def test_coupled_modes_follow_the_flow_of_both_layers() -> None:
    draw = np.random.default_rng(0)
    hidden = 0.1 * draw.standard_normal((5, 3))
    correlation, variance = np.array([1.0, 0.7, 0.4]), 0.5

    def flow(time: float, flat: np.ndarray) -> np.ndarray:
        first, second = flat[:15].reshape(5, 3), flat[15:].reshape(3, 5)
        missing = np.diag(correlation) - variance * second @ first
        return np.concatenate([(second.T @ missing).ravel(), (missing @ first.T).ravel()])

    times = [0.0, 2.0, 5.0, 9.0, 40.0]
    begin = np.concatenate([hidden.ravel(), hidden.T.ravel()])
    run = integrate.solve_ivp(flow, (0.0, 40.0), begin, "Radau", times, rtol=1e-8, atol=1e-11)
    expected = np.stack([y[15:].reshape(3, 5) @ y[:15].reshape(5, 3) for y in run.y.T])
    start = torch.from_numpy(hidden.T @ hidden)
    found = coupled_map(start, torch.from_numpy(correlation), variance, times)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)
    diagonal = torch.diag(start.diagonal())
    alone = mode_strengths(start.diagonal().numpy(), correlation, np.full(3, variance), 2, np.array(times))
    found = coupled_map(diagonal, torch.from_numpy(correlation), variance, times)
    np.testing.assert_allclose(found.diagonal(dim1=1, dim2=2).numpy(), alone, rtol=1e-9)


def test_starts_at_or_above_the_target_are_refused() -> None:
    with pytest.raises(TheoryError, match="must lie between 0 and the targets"):
        mode_strengths(np.array([1.0]), np.array([1.0]), np.array([1.0]), 3, np.zeros(1))


def test_modes_of_data_are_those_of_the_hierarchy_and_mixed_ones_are_refused() -> None:
    tree = SemanticHierarchy(branching=3, levels=2, dtype=DOUBLE)
    modes = input_output_modes(*tree.dataset)
    torch.testing.assert_close(modes.correlation, tree.modes.values, rtol=1e-12, atol=0)
    torch.testing.assert_close(modes.variance, torch.full_like(modes.variance, 1 / tree.items))
    assert modes.floor == pytest.approx(0.0, abs=1e-12)
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(20, 3, dtype=DOUBLE, generator=draw)
    noisy = inputs @ torch.randn(3, 4, dtype=DOUBLE, generator=draw) + torch.randn(20, 4, dtype=DOUBLE, generator=draw)
    with pytest.raises(TheoryError, match="whiten the inputs first"):
        input_output_modes(inputs, noisy)
    white = torch.linalg.qr(inputs).Q * math.sqrt(20)
    best = torch.linalg.lstsq(white, noisy).solution
    floor = float((noisy - white @ best).square().sum() / 40)
    assert input_output_modes(white, noisy).floor == pytest.approx(floor, rel=1e-10)


def test_a_step_is_gradient_descent_and_small_steps_conserve_the_imbalance() -> None:
    draw = torch.Generator().manual_seed(1)
    inputs, targets = (torch.randn(12, size, dtype=DOUBLE, generator=draw) for size in (4, 3))
    layers = [layer[None] for layer in gaussian_layers([4, 5, 2, 3], draw)]
    leaves = [layer.clone().requires_grad_() for layer in layers]
    loss = (inputs @ product(leaves)[0].T - targets).square().sum() / 24
    gradients = torch.autograd.grad(loss, leaves)
    way = descend(layers, inputs, targets, 0.1, [0, 1])
    assert float(way.losses[0, 0]) == pytest.approx(float(loss.detach()), rel=1e-12)
    for after, before, gradient in zip(way.layers, layers, gradients, strict=True):
        torch.testing.assert_close(after, before - 0.1 * gradient, rtol=1e-12, atol=1e-12)

    def drift(rate: float) -> float:
        end = descend(layers, inputs, targets, rate, [round(1.0 / rate)]).layers
        gaps = [w[1] @ w[1].mT - w[2].mT @ w[2] for w in (layers, end)]
        return float((gaps[1] - gaps[0]).norm())

    assert drift(1e-3) < 0.02 and drift(1e-3) / drift(1e-2) == pytest.approx(0.1, rel=0.2)


def test_layers_have_the_modes_they_were_made_from() -> None:
    draw = torch.Generator().manual_seed(2)
    left, right = random_orthogonal(5, 3, draw), random_orthogonal(4, 3, draw)
    factors = torch.tensor([[1.0, 0.5, 0.2], [0.3, 0.3, 0.3], [2.0, 1.0, 3.0]], dtype=DOUBLE)
    whole = product(decoupled_layers(left, factors, right, [3, 6], draw))
    torch.testing.assert_close(whole, left * factors.prod(0) @ right.T, rtol=0, atol=1e-14)
    balanced = aligned_layers(left, factors[0], right, [3, 6], draw)
    torch.testing.assert_close(product(balanced), left * factors[0] @ right.T, rtol=0, atol=1e-14)
    torch.testing.assert_close(balanced[0] @ balanced[0].T, balanced[1].T @ balanced[1], rtol=0, atol=1e-14)
    for whole in (product(orthogonal_layers([6, 6, 6, 6], draw)), product(orthogonal_layers([8, 6, 4], draw)[:1])):
        torch.testing.assert_close(whole @ whole.T, torch.eye(6, dtype=DOUBLE), rtol=0, atol=1e-13)
    with pytest.raises(TheoryError, match="give 2, each at least 3"):
        decoupled_layers(left, factors, right, [3, 2], draw)


def test_pretrained_layers_reconstruct_as_well_as_principal_components() -> None:
    draw = torch.Generator().manual_seed(3)
    inputs = torch.randn(50, 6, dtype=DOUBLE, generator=draw) * torch.arange(1.0, 7.0, dtype=DOUBLE)
    layers = pretrained_layers(inputs, [6, 4, 4, 3, 2], draw)
    code = inputs
    for layer in layers[:-1]:
        rank = len(layer)
        lost = torch.linalg.svdvals(code)[rank:].square().sum()
        torch.testing.assert_close((code - code @ layer.T @ layer).square().sum(), lost, rtol=1e-9, atol=1e-9)
        code = code @ layer.T
    with pytest.raises(TheoryError, match="an autoencoder with 7 hidden units on 6 inputs"):
        pretrained_layers(inputs, [6, 7, 2], draw)


def test_transitions_are_where_the_prediction_passes_one_half() -> None:
    problem = THEORY.problem(THEORY.complete({}), 0)
    when = problem.transitions()
    steps = np.array([np.floor(when), np.ceil(when)]).astype(int).T
    for mode, pair in enumerate(steps):
        share = THEORY.predicted(problem, pair.tolist())["mode_strength"][:, mode] * problem.variance[mode]
        assert share[0] <= problem.correlation[mode] / 2 <= share[1]
