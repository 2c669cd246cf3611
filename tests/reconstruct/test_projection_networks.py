"""Projection scores and their training, against definitions and a process whose singular values are known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from separatrix.reconstruct.projection_networks import (
    Network,
    distortion,
    projection_score,
    train_generator,
    train_pairs,
    with_gradients,
)


def pairs(seed: int = 0, count: int = 200, size: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    now = generator.standard_normal((count, size)) @ generator.standard_normal((size, size))
    return now, now @ generator.standard_normal((size, size)) * 0.5 + generator.standard_normal((count, size))


def test_the_distortion_is_zero_for_the_identity_alone() -> None:
    assert float(distortion(torch.eye(5, dtype=torch.float64))) == pytest.approx(0.0, abs=1e-12)
    diagonal = torch.diag(torch.tensor([0.5, 2.0], dtype=torch.float64))
    expected = 0.25 - 0.5 - np.log(0.5) + 4.0 - 2.0 - np.log(2.0)
    assert float(distortion(diagonal)) == pytest.approx(expected)
    assert float(distortion(diagonal)) > 0


def test_scores_are_those_of_their_definitions() -> None:
    now, later = pairs()
    here, there, across = now.T @ now / 200, later.T @ later / 200, now.T @ later / 200
    root, other = (np.linalg.inv(scipy.linalg.sqrtm(each)) for each in (here, there))
    exact = np.linalg.norm(root @ across @ other) ** 2
    relaxed = np.linalg.norm(across) ** 2 / (np.linalg.norm(here, 2) * np.linalg.norm(there, 2))
    given = torch.from_numpy(now), torch.from_numpy(later)
    for score in ("projection", "vamp"):
        assert float(projection_score(*given, score)) == pytest.approx(exact, rel=1e-4)  # inverses are regularised
    assert float(projection_score(*given, "relaxed")) == pytest.approx(relaxed)
    assert relaxed <= exact


def test_gradients_by_the_state_are_those_of_autograd() -> None:
    network = Network.drawn((2, 7, 5, 3), torch.Generator().manual_seed(0))
    states = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    values, slopes = with_gradients(network, states)
    torch.testing.assert_close(values, network(states))
    torch.testing.assert_close(
        slopes, torch.func.vmap(torch.func.jacrev(lambda state: network(state[None])[0]))(states)
    )


def autoregressive(count: int, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    now = generator.standard_normal((count, 1))
    return now, ratio * now + np.sqrt(1 - ratio**2) * generator.standard_normal((count, 1))


def test_training_reaches_the_singular_values_of_a_known_process() -> None:
    now, later = autoregressive(4000, 0.8)
    network = train_pairs(
        now, later, features=2, width=16, depth=1, score="relaxed", weight=1.0,
        steps=400, batch=500, rate=1e-2, seed=0,
    )  # fmt: skip
    here, there = network.values(now), network.values(later)
    covariance = here.T @ here / len(here)
    np.testing.assert_allclose(covariance, np.eye(2), atol=0.15)
    values = np.linalg.eigvals(np.linalg.solve(covariance, here.T @ there / len(here)))
    np.testing.assert_allclose(np.sort(np.abs(values)), [0.8, 1.0], atol=0.04)  # Hermite: 1, ratio, ratio^2, ...


def test_the_generator_is_trained_without_pairs() -> None:
    states, _ = autoregressive(4000, 0.5)  # normal: the equilibrium of V = x^2 / 2 at unit temperature
    network = train_generator(
        states, 1.0, features=2, width=16, depth=1, weight=1.0, steps=400, batch=500, rate=1e-2, seed=0
    )
    values, slopes = with_gradients(network, torch.from_numpy(states))
    count = len(states)
    covariance, energy = values.T @ values / count, torch.einsum("piv,pjv->ij", slopes, slopes) / count
    rates = torch.linalg.eigvals(torch.linalg.solve(covariance, energy)).real.sort().values
    np.testing.assert_allclose(rates.numpy(), [0.0, 1.0], atol=0.08)


def test_seeds_decide() -> None:
    now, later = autoregressive(300, 0.8)
    given = {
        "features": 2,
        "width": 8,
        "depth": 1,
        "score": "vamp",
        "weight": 1.0,
        "steps": 5,
        "batch": 50,
        "rate": 0.01,
    }
    one, same, other = (train_pairs(now, later, seed=seed, **given).values(now) for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_sharper_networks_have_a_larger_first_layer_alone() -> None:
    plain, sharp = (Network.drawn((1, 6, 2), torch.Generator().manual_seed(0), each) for each in (1.0, 3.0))
    torch.testing.assert_close(sharp.weights[0], 3.0 * plain.weights[0])
    torch.testing.assert_close(sharp.biases[0], 6.0 * plain.biases[0])
    torch.testing.assert_close(sharp.weights[1], plain.weights[1])
    assert all(each.requires_grad and each.is_leaf for each in sharp.parameters)
