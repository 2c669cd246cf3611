"""Fourier circuits: measures against brute force, and when frequencies live or die."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from separatrix.theory.modular_fourier import (
    THEORY,
    CircuitProblem,
    amplitudes_at,
    circuit_amplitudes,
    circuit_logits,
    circuit_loss,
    excluded,
    frequency_norms,
    gini,
    restricted,
    sum_waves,
    unit_weights,
    wave_shares,
)

P = 7


def _logits(seed: int = 0) -> torch.Tensor:
    return torch.randn(P * P, P, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_waves_are_orthonormal_and_projections_part_the_logits() -> None:
    waves = sum_waves(P).flatten(0, 1)
    torch.testing.assert_close(waves @ waves.T, torch.eye(P - 1, dtype=torch.float64))
    keys = torch.tensor([0, 2])
    logits = _logits()
    mean = logits.mean(0)
    torch.testing.assert_close(restricted(logits, keys) + excluded(logits, keys), logits + mean)
    torch.testing.assert_close(restricted(restricted(logits, keys), keys), restricted(logits, keys))
    kept = wave_shares(logits)[keys].sum()
    torch.testing.assert_close((restricted(logits, keys) - mean).square().sum() / (logits - mean).square().sum(), kept)


def test_amplitudes_are_coefficients_of_the_circuits() -> None:
    logits = _logits(1)
    for k, found in enumerate(circuit_amplitudes(logits), 1):
        by_hand = 0.0
        for a in range(P):
            for b in range(P):
                for c in range(P):
                    by_hand += float(logits[a * P + b, c]) * math.cos(2 * math.pi * k * (a + b - c) / P)
        assert float(found) == pytest.approx(2 * by_hand / P**3)
    strong = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    a, b, c = torch.meshgrid(*[torch.arange(P)] * 3, indexing="ij")
    whole = circuit_logits(strong, P)[(a + b - c) % P].reshape(P * P, P)
    torch.testing.assert_close(circuit_amplitudes(whole), strong)
    targets = ((a + b) % P)[:, :, 0].flatten()
    torch.testing.assert_close(circuit_loss(strong, P), torch.nn.functional.cross_entropy(whole, targets))
    torch.testing.assert_close(wave_shares(whole), strong.square() / strong.square().sum())


def test_norms_and_inequality_of_known_tables() -> None:
    turns = 2 * math.pi / P * torch.arange(P, dtype=torch.float64)
    table = torch.stack([3 * (2 * turns).cos(), 4 * (2 * turns).sin(), 1 + 0 * turns], 1)
    expected = torch.tensor([0.0, 5 * math.sqrt(P / 2), 0.0], dtype=torch.float64)
    torch.testing.assert_close(frequency_norms(table), expected, rtol=1e-12, atol=1e-9)
    assert float(gini(torch.ones(4))) == pytest.approx(0.0, abs=1e-6)
    assert float(gini(torch.tensor([0.0, 0.0, 0.0, -5.0]))) == pytest.approx(0.75)
    assert float(gini(torch.tensor([1.0, 3.0]))) == pytest.approx(0.25)


def _problem(amplitudes: list[float], decay: float) -> CircuitProblem:
    first = torch.tensor(amplitudes, dtype=torch.float64).expand(3, -1).clone()
    p = 2 * len(amplitudes) + 1
    return CircuitProblem(
        p, first, torch.zeros(len(amplitudes), dtype=torch.float64), 0.1 * p, decay / p, torch.tensor([0])
    )


def test_the_first_step_is_the_gradient_of_the_net() -> None:
    problem = dataclasses.replace(_problem([0.5, 0.9, 0.2], 0.05), offsets=torch.tensor([0.1, 1.0, 2.0]).double())
    weights = unit_weights(problem).requires_grad_()
    logits = (weights[0][:, None] * weights[1]).flatten(0, 1) @ weights[2].T
    sums = (torch.arange(7)[:, None] + torch.arange(7)).flatten() % 7
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, sums), weights)
    stepped = weights - problem.learning_rate * (gradient + problem.weight_decay * weights)
    after = dataclasses.replace(problem, amplitudes=amplitudes_at(problem, [1])[0])
    torch.testing.assert_close(unit_weights(after), stepped.detach())


def test_a_frequency_alone_lives_above_its_threshold_and_dies_below() -> None:
    """With nothing learnt |r_k| = 2 / p: the amplitude grows while A > 2 decay, in units of decay over p."""
    for share, lives in ((0.9, False), (1.1, True)):
        problem = _problem([2 * 0.05 * share, 0.0, 0.0], 0.05)
        start, end = amplitudes_at(problem, [0, 4000])[:, 0, 0]
        assert (float(end) > float(start)) == lives
        assert float(end) > 1.0 if lives else float(end) < 1e-3


def test_the_strong_put_out_the_weak_only_with_decay() -> None:
    for decay, dead in ((0.05, True), (0.0, False)):
        ends = amplitudes_at(_problem([0.6, 0.55, 0.3], decay), [4000])[0, 0]
        assert (float(ends[2]) < 1e-2) == dead and float(ends[0]) > 1.0


def test_excluded_loss_rises_again_as_the_decay_removes_the_others() -> None:
    seen = THEORY.predicted(THEORY.problem(THEORY.complete({}), 0))
    lowest = int(seen["excluded_loss"].argmin())
    assert 0 < lowest < len(seen.steps) - 1
    assert (seen["restricted_loss"][1:] < seen["restricted_loss"][:-1]).all()
    assert seen["gini"][-1] > seen["gini"][0]
