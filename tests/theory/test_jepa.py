"""Deep linear JEPA and MAE: flow and clock against another integrator, gradients, and the order of features."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp

from separatrix.theory.jepa import (
    Features,
    Net,
    Objective,
    Pairs,
    balanced_net,
    critical_times,
    flow,
    leading_critical_times,
    training_step,
    velocity,
)

BOTH = pytest.mark.parametrize("objective", ["jepa", "mae"])


def _features(objective: Objective, depth: int, start: float = 0.05) -> Features:
    return Features(np.array([1.0, 1.0, 0.7]), np.array([0.95, 0.6, 0.8]), start, depth, objective, 0.01)


@BOTH
@pytest.mark.parametrize("depth", [1, 3])
def test_the_flow_is_that_of_all_layers(objective: Objective, depth: int) -> None:
    """One feature's layers and head as separate numbers, integrated by scipy from the gradient of the loss."""
    features = _features(objective, depth)
    for mode, (covariance, variance) in enumerate(zip(features.covariance, features.variance, strict=True)):

        def pull(
            _: float, values: np.ndarray, covariance: float = covariance, variance: float = variance
        ) -> np.ndarray:
            *layers, head = values
            encoder = np.prod(layers)
            residual = head * encoder * variance - (encoder if objective == "jepa" else 1.0) * covariance
            return np.array([-residual * head * encoder / layer for layer in layers] + [-residual * encoder])

        start = np.full(depth + 1, features.layer_start)
        end = solve_ivp(pull, (0, 20.0), start, rtol=1e-10, atol=1e-13).y[:, -1]
        np.testing.assert_allclose(end, flow(features, [2000])[0, mode], rtol=1e-7)


@BOTH
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_critical_times_are_the_integral_of_the_inverse_velocity(objective: Objective, depth: int) -> None:
    features = _features(objective, depth, 0.01)
    ends = 0.9 ** (1 / depth) * features.layer_rest
    for mode, time in enumerate(critical_times(features, 0.9)):
        if features.layer_start >= ends[mode]:
            assert np.isnan(time)
            continue

        def slowness(strength: float, mode: int = mode) -> float:
            return float(1 / velocity(features, np.full(3, strength))[mode])

        assert time == pytest.approx(quad(slowness, features.layer_start, ends[mode], epsabs=0, limit=200)[0], rel=1e-6)


@pytest.mark.parametrize(("objective", "depth"), [("jepa", 1), ("jepa", 4), ("mae", 3)])
def test_what_leads_in_the_critical_times_is_all_for_a_small_start(objective: Objective, depth: int) -> None:
    features = _features(objective, depth, 1e-3**depth)
    ratio = critical_times(features, 0.5) / leading_critical_times(features)
    np.testing.assert_allclose(ratio, 1.0, atol=0.05)


def test_at_equal_covariance_only_a_jepa_waits_for_noisy_features_and_ever_more_with_depth() -> None:
    gaps = []
    for depth in range(1, 6):
        jepa, mae = (critical_times(_features(objective, depth, 0.6**10), 0.9) for objective in ("jepa", "mae"))
        gaps.append(jepa[1] / jepa[0])
        assert mae[1] / mae[0] < 1.01
    assert gaps[0] > 1.0 and (np.diff(gaps) > 0).all()


@BOTH
def test_a_training_step_follows_the_gradient_of_the_loss_of_data(objective: Objective) -> None:
    draw = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 30, 3, dtype=torch.float64, generator=draw)
    parts = [part.requires_grad_() for part in torch.randn(4, 3, 3, dtype=torch.float64, generator=draw).unbind()]
    first, second, third, head = parts
    encode = third @ second @ first
    wanted = (two @ encode.T).detach() if objective == "jepa" else two
    loss = (one @ encode.T @ head.T - wanted).square().sum(1).mean() / 2
    gradients = [part.numpy() for part in torch.autograd.grad(loss, parts)]
    values = [part.detach().numpy() for part in parts]
    pairs = Pairs((one.T @ one / 30).numpy(), (two.T @ one / 30).numpy())
    after = training_step(Net(tuple(values[:3]), values[3]), pairs, objective, 0.1)
    for value, gradient, moved in zip(values, gradients, (*after.layers, after.head), strict=True):
        np.testing.assert_allclose(moved, value - 0.1 * gradient, atol=1e-10)


@BOTH
def test_a_balanced_net_is_a_multiple_of_an_orthogonal_map(objective: Objective) -> None:
    net = balanced_net(4, 3, 0.5, objective, 0)
    encoder = net.encoder()
    np.testing.assert_allclose(encoder.T @ encoder, 0.5**6 * np.eye(4), atol=1e-12)
    whole = net.head @ encoder
    expected = 0.5 * encoder if objective == "jepa" else 0.5**4 * np.eye(4)
    np.testing.assert_allclose(whole, expected, atol=1e-12)


def test_a_jepa_started_above_its_rest_sinks_to_it() -> None:
    features = dataclasses.replace(_features("jepa", 1, 0.9), coefficient=np.array([0.5, 0.6, 0.7]))
    assert np.isnan(critical_times(features, 0.9)).all()
    np.testing.assert_allclose(flow(features, [20_000])[0], features.coefficient, rtol=1e-6)
