"""Token pairs: exact marginals, planted rank, optima by brute force, and samples that follow the joint distribution."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch

from separatrix.tasks import TaskError, TokenCooccurrence

KNOBS = [{}, {"tokens": 20, "rank": 2, "strength": 4.0}, {"zipf": 0.0, "rank": 8}, {"strength": 0.0}]


@pytest.mark.parametrize("knobs", KNOBS)
def test_marginals_are_zipf_and_the_joint_is_symmetric(knobs: dict[str, float]) -> None:
    task = TokenCooccurrence(**knobs)
    weights = torch.tensor([(i + 1.0) ** -task.zipf for i in range(task.tokens)], dtype=torch.float64)
    assert torch.allclose(task.joint.sum(1), weights / weights.sum(), rtol=1e-12)
    assert torch.equal(task.joint, task.joint.T)
    assert bool((task.joint > 0).all())


@pytest.mark.parametrize("knobs", KNOBS)
def test_the_centred_information_is_the_centred_planted_product(knobs: dict[str, float]) -> None:
    task = TokenCooccurrence(**knobs)
    centring = torch.eye(task.tokens, dtype=torch.float64) - 1.0 / task.tokens
    planted = task.strength * centring @ task.vectors @ task.vectors.T @ centring
    assert torch.allclose(centring @ task.information @ centring, planted, atol=1e-9)


def test_without_strength_tokens_are_independent() -> None:
    task = TokenCooccurrence(strength=0.0)
    assert abs(task.mutual_information) < 1e-12
    entropy = -float((task.frequencies * task.frequencies.log()).sum())
    assert math.isclose(task.bayes_loss, entropy, rel_tol=1e-12)
    assert math.isclose(task.bayes_error, 1.0 - float(task.frequencies[0]), rel_tol=1e-12)


def test_optima_by_counting() -> None:
    task = TokenCooccurrence(tokens=7, strength=3.0)
    loss, right = 0.0, 0.0
    for i in range(7):
        row = [float(task.joint[i, j]) for j in range(7)]
        right += max(row)
        loss -= sum(p * math.log(p / sum(row)) for p in row)
    assert math.isclose(task.bayes_loss, loss, rel_tol=1e-12)
    assert math.isclose(task.bayes_error, 1.0 - right, rel_tol=1e-12)
    entropy = -float((task.frequencies * task.frequencies.log()).sum())
    assert math.isclose(task.mutual_information, entropy - task.bayes_loss, rel_tol=1e-10)


def test_a_table_of_logits_trained_on_the_population_reaches_the_least_loss() -> None:
    task = TokenCooccurrence(tokens=12, strength=3.0)
    table = torch.zeros(12, 12, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([table], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = -(task.joint * table.log_softmax(1)).sum()
        value.backward()
        return value

    optimizer.step(loss)
    assert -1e-12 <= float(loss().detach()) - task.bayes_loss < 1e-6


def test_samples_follow_the_joint_distribution() -> None:
    task = TokenCooccurrence(tokens=10, strength=2.0)
    batch = task.sample(200_000, 3)
    counts = torch.bincount(batch.inputs * 10 + batch.targets, minlength=100).double()
    found = scipy.stats.chisquare(counts.numpy(), (200_000 * task.joint.flatten()).numpy(), sum_check=False)
    assert found.pvalue > 0.001
    wrong = scipy.stats.chisquare(
        counts.numpy(), (200_000 * task.frequencies[:, None] * task.frequencies).flatten().numpy(), sum_check=False
    )
    assert wrong.pvalue < 1e-6


def test_a_strength_beyond_what_float64_holds_is_refused() -> None:
    with pytest.raises(TaskError, match="strength"):
        _ = TokenCooccurrence(strength=1e5, rank=1).joint
