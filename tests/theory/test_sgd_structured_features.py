"""The recursion of SGD on structured features against populations that can be listed, and results known otherwise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from separatrix.theory.sgd_structured_features import (
    critical_rate,
    expected_losses,
    losses_at_compute,
    measured_fourth,
    mode_errors,
    normal_fourth,
    second_moments,
)

SPECTRUM = np.array([1.3, 0.4, 0.1])
WEIGHTS = np.array([0.7, -1.1, 2.0])
STEPS = [0, 1, 2, 5, 40]
# Equally likely numbers with mean 0, variance 1 and the kurtosis; third moments vanish.
POINTS = {
    1.0: [-1.0, 1.0],
    3.0: [0.0] * 4 + [-np.sqrt(3.0), np.sqrt(3.0)],
    6.0: [0.0] * 10 + [-np.sqrt(6.0), np.sqrt(6.0)],
}


@pytest.mark.parametrize("kurtosis", POINTS)
def test_modes_follow_the_recursion_with_fourth_moments_of_a_listed_population(kurtosis: float) -> None:
    rate, batch, noise = 0.15, 2, 0.6
    inputs = np.array(list(itertools.product(POINTS[kurtosis], repeat=3))) * np.sqrt(SPECTRUM)
    clean = inputs @ WEIGHTS
    rows = np.concatenate([np.column_stack((inputs, clean + sign * noise)) for sign in (-1.0, 1.0)])
    second = rows.T @ rows / len(rows)
    found = second_moments(second, measured_fourth(rows), rate, batch, np.zeros((3, 1)), STEPS)
    losses = [float((second * moment).sum()) / 2.0 for moment in found]
    expected = expected_losses(SPECTRUM, WEIGHTS**2, rate, batch, noise**2, STEPS, kurtosis)
    np.testing.assert_allclose(losses, expected, rtol=1e-10)


def test_every_batch_of_a_small_set_averages_to_the_recursion() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(4, 4))
    second, rate = rows.T @ rows / 4, 0.2
    averages = []
    weights = [np.zeros((2, 2))]
    for _ in range(3):
        averages.append(np.mean([np.square(rows[:, :2] @ each - rows[:, 2:]).sum(1).mean() / 2 for each in weights]))
        weights = [
            each - rate / 2 * rows[list(pair), :2].T @ (rows[list(pair), :2] @ each - rows[list(pair), 2:])
            for each in weights
            for pair in itertools.product(range(4), repeat=2)
        ]
    found = second_moments(second, measured_fourth(rows), rate, 2, np.zeros((2, 2)), [0, 1, 2])
    np.testing.assert_allclose([float((second * moment).sum()) / 2 for moment in found], averages, rtol=1e-12)


def test_normal_features_in_any_basis_follow_the_modes() -> None:
    generator = np.random.default_rng(1)
    axes, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    covariance, target = axes * SPECTRUM @ axes.T, axes @ WEIGHTS
    across = covariance @ target
    second = np.block([[covariance, across[:, None]], [across[None], np.array([[target @ across + 0.09]])]])
    away = np.column_stack((axes.T, WEIGHTS))
    found = [
        np.diag(away @ moment @ away.T)
        for moment in second_moments(second, normal_fourth(second), 0.3, 4, np.zeros((3, 1)), STEPS)
    ]
    np.testing.assert_allclose(found, mode_errors(SPECTRUM, WEIGHTS**2, 0.3, 4, 0.09, STEPS), rtol=1e-10)


def test_isotropic_features_decay_at_the_published_rate() -> None:
    """At the best rate m / (m + N + 1) every step multiplies the loss by 1 - m / (m + N + 1)."""
    modes, batch = 30, 5
    rate = batch / (batch + modes + 1)
    losses = expected_losses(np.ones(modes), np.full(modes, 0.1), rate, batch, 0.0, [0, 1, 2, 3])
    np.testing.assert_allclose(losses[1:] / losses[:-1], 1 - rate, rtol=1e-12)


def test_critical_rates_known_otherwise() -> None:
    one = np.ones(1)
    assert critical_rate(one, 1) == pytest.approx(2 / 3)  # E (1 - s x^2)^2 = 1 - 2 s + 3 s^2
    assert critical_rate(one, 1, kurtosis=1.0) == pytest.approx(2.0)
    assert critical_rate(SPECTRUM, 1, kurtosis=1.0) == pytest.approx(2 / SPECTRUM.sum())
    assert critical_rate(SPECTRUM, 10**9) == pytest.approx(2 / SPECTRUM.max())


@pytest.mark.parametrize("kurtosis", POINTS)
def test_the_loss_grows_only_past_the_critical_rate(kurtosis: float) -> None:
    limit = critical_rate(SPECTRUM, 2, kurtosis)
    late = [100_000, 200_000]
    below, above = (
        expected_losses(SPECTRUM, WEIGHTS**2, share * limit, 2, 0.0, late, kurtosis) for share in (0.999, 1.001)
    )
    assert below[1] < below[0]
    assert above[1] > above[0]


def test_compute_is_shared_between_steps_and_batch() -> None:
    rate = 0.8 * critical_rate(SPECTRUM, 1)
    losses = losses_at_compute(SPECTRUM, WEIGHTS**2, rate, 0.25, 64, [1, 4, 64])
    for loss, batch in zip(losses, (1, 4, 64), strict=True):
        assert loss == expected_losses(SPECTRUM, WEIGHTS**2, rate, batch, 0.25, [64 // batch])[0]
    assert losses_at_compute(SPECTRUM, WEIGHTS**2, 2 * rate, 0.25, 64, [1])[0] == np.inf
