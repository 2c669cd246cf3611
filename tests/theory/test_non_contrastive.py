"""Linear self-supervision without contrast: its flow against another integrator, its gradients, its separatrix."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from separatrix.theory.non_contrastive import (
    Moments,
    Net,
    Views,
    alignment_rate,
    critical_weight_decay,
    direct_predictor,
    flow,
    resting_strengths,
    rotations,
    training_step,
)

VIEWS = Views(
    signal=np.array([1.0, 0.6]),
    augmentation=np.array([0.3, 0.2]),
    encoder=np.array([0.5, 0.4]),
    predictor=np.array([0.6, 0.3]),
    predictor_rate=2.0,
    weight_decay=0.04,
    averaging=0.7,
)


def test_the_flow_is_that_of_the_matrices() -> None:
    """Modes against all entries of W, W_p and W_a in turned bases, integrated by scipy."""
    inputs, features = rotations(2, 2, 3)
    shared = inputs @ np.diag(VIEWS.signal) @ inputs.T
    own = shared + inputs @ np.diag(VIEWS.augmentation) @ inputs.T
    encoder = features @ np.diag(VIEWS.encoder) @ inputs.T
    start = np.stack([encoder, features @ np.diag(VIEWS.predictor) @ features.T, encoder])

    def velocity(_: float, flat: np.ndarray) -> np.ndarray:
        encoder, predictor, target = flat.reshape(3, 2, 2)
        error = predictor @ encoder @ own - target @ shared
        moved = (
            -predictor.T @ error - 0.04 * encoder,
            -2.0 * error @ encoder.T - 0.04 * predictor,
            0.7 * (encoder - target),
        )
        return np.stack(moved).ravel()

    end = solve_ivp(velocity, (0.0, 10.0), start.ravel(), rtol=1e-10, atol=1e-12).y[:, -1].reshape(3, 2, 2)
    encoder, predictor, target = flow(VIEWS, [round(10.0 / VIEWS.rate)])[0]
    np.testing.assert_allclose(end[0], features @ np.diag(encoder) @ inputs.T, atol=1e-8)
    np.testing.assert_allclose(end[1], features @ np.diag(predictor) @ features.T, atol=1e-8)
    np.testing.assert_allclose(end[2], features @ np.diag(target) @ inputs.T, atol=1e-8)


def test_a_training_step_follows_the_gradient_of_the_loss_of_data() -> None:
    draw = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 40, 3, dtype=torch.float64, generator=draw)
    encoder, target, predictor = torch.randn(3, 3, 3, dtype=torch.float64, generator=draw).unbind()
    encoder.requires_grad_()
    predictor.requires_grad_()
    loss = (one @ encoder.T @ predictor.T - two @ target.T).square().sum(1).mean() / 2
    by_encoder, by_predictor = torch.autograd.grad(loss, [encoder, predictor])
    net = Net(encoder.detach().numpy(), predictor.detach().numpy(), target.numpy())
    moments = Moments((one.T @ one / 40).numpy(), (two.T @ one / 40).numpy())
    views = dataclasses.replace(VIEWS, weight_decay=0.0, rate=0.1)
    after = training_step(net, moments, views)
    np.testing.assert_allclose(after.encoder, net.encoder - 0.1 * by_encoder.numpy(), atol=1e-12)
    np.testing.assert_allclose(after.predictor, net.predictor - 0.2 * by_predictor.numpy(), atol=1e-12)
    np.testing.assert_allclose(after.target, net.target + 0.07 * (net.encoder - net.target), atol=1e-12)


@pytest.mark.parametrize("rate", [0.5, 3.0])
@pytest.mark.parametrize(("start", "survives"), [(0.95, False), (1.05, True)])
def test_the_lower_root_separates_collapse_from_learning(start: float, survives: bool, rate: float) -> None:
    lower, upper = resting_strengths(VIEWS.signal, VIEWS.augmentation, 0.06)
    views = dataclasses.replace(
        VIEWS,
        encoder=start * lower / np.sqrt(rate),
        predictor=start * lower,
        predictor_rate=rate,
        weight_decay=0.06,
        averaging=None,
        rate=0.01,
    )
    end = flow(views, [60_000])[0, 1]
    np.testing.assert_allclose(end, upper if survives else 0.0, atol=1e-3)


def test_the_roots_meet_at_the_critical_weight_decay() -> None:
    critical = critical_weight_decay(VIEWS.signal, VIEWS.augmentation)
    for mode, weight_decay in enumerate(critical.tolist()):
        below, above = (
            np.array(resting_strengths(VIEWS.signal, VIEWS.augmentation, share * weight_decay))[:, mode]
            for share in (1 - 1e-10, 1 + 1e-10)
        )
        assert below[0] == pytest.approx(below[1], rel=1e-4) and np.isnan(above).all()
        total = VIEWS.signal[mode] + VIEWS.augmentation[mode]
        np.testing.assert_allclose(total * below**2 - VIEWS.signal[mode] * below + weight_decay, 0.0, atol=1e-9)


def test_the_commutator_moves_as_theorem_three_says() -> None:
    """One small symmetric step from matrices that share no eigenvectors."""
    size, noise, rate = 4, 0.3, 1e-6
    encoder, middle = np.random.default_rng(1).standard_normal((2, size, size))
    net = Net(encoder, (middle + middle.T) / 2, encoder)
    views = Views(*np.ones((4, size)), predictor_rate=1.7, weight_decay=0.1, rate=rate)
    moments = Moments((1 + noise) * np.eye(size), np.eye(size))

    def commutator(net: Net) -> np.ndarray:
        features = net.encoder @ net.encoder.T
        return features @ net.predictor - net.predictor @ features

    moved = (commutator(training_step(net, moments, views, symmetric=True)) - commutator(net)) / rate
    pull = alignment_rate(encoder @ encoder.T, net.predictor, 1 + noise, 1.7, 0.1)
    now = commutator(net)
    np.testing.assert_allclose(moved, -(pull @ now + now @ pull), atol=1e-3 * np.abs(moved).max())


def test_a_set_predictor_has_the_eigenvectors_of_the_features() -> None:
    root = np.random.default_rng(0).standard_normal((5, 5))
    features = root @ root.T
    predictor = direct_predictor(features, 0.1)
    np.testing.assert_allclose(predictor @ features, features @ predictor, atol=1e-10)
    largest = np.linalg.eigvalsh(features).max()
    root_of = predictor - 0.1 * largest * np.eye(5)
    np.testing.assert_allclose(root_of @ root_of, features, atol=1e-9)
