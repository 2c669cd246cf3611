"""In-context regression: what a prompt is, its moments, and the best prediction against a posterior by brute force."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from separatrix.tasks import InContextRegression, TaskError

N = 60_000


def test_a_prompt_is_labelled_tokens_and_a_query_without_its_label() -> None:
    task = InContextRegression(dimension=3, length=6, dtype=torch.float64)
    tokens, targets = task.sample(50, 0)
    assert tokens.shape == (50, 7, 4) and targets.shape == (50,)
    assert not tokens[:, -1, -1].any()
    weights = torch.linalg.lstsq(tokens[:, :-1, :-1], tokens[:, :-1, -1:]).solution
    torch.testing.assert_close((tokens[:, -1:, :-1] @ weights)[:, 0, 0], targets, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("covariance", ["fixed", "exponential"])
def test_knobs_set_the_variances(covariance: Any) -> None:
    task = InContextRegression(
        dimension=3,
        length=2,
        decay=1.0,
        task_decay=-0.5,
        noise=0.5,
        covariance=covariance,
        covariate_scale=2.0,
        query_scale=3.0,
        task_scale=0.7,
        dtype=torch.float64,
    )
    tokens, targets = task.sample(N, 0)
    spectrum = 4 / torch.arange(1.0, 4.0, dtype=torch.float64)
    prior = 0.49 * torch.arange(1.0, 4.0, dtype=torch.float64) ** 0.5
    torch.testing.assert_close(task.spectrum, spectrum)
    torch.testing.assert_close(task.prior, prior)
    squares = tokens.square().mean(0)
    torch.testing.assert_close(squares[0, :-1], spectrum, rtol=0.06, atol=0)
    torch.testing.assert_close(squares[-1, :-1], 9 * spectrum, rtol=0.06, atol=0)
    assert float(squares[0, -1]) == pytest.approx(float(spectrum @ prior) + 0.25, rel=0.06)
    assert float(targets.square().mean()) == pytest.approx(9 * float(spectrum @ prior) + 0.25, rel=0.06)
    both = (tokens[:, 0, 0].square() * tokens[:, 1, 0].square()).mean() / spectrum[0] ** 2
    assert float(both) == pytest.approx(1.0 if covariance == "fixed" else 2.0, rel=0.1)


def test_responses_are_what_their_names_say() -> None:
    linear = InContextRegression(dimension=2, length=3, dtype=torch.float64).sample(N, 0).targets
    for name, function in (("sign", torch.sign), ("sine", torch.sin)):
        other = InContextRegression(dimension=2, length=3, response=name, dtype=torch.float64).sample(N, 0).targets
        torch.testing.assert_close(other, function(linear))
    task = InContextRegression(dimension=4, response="relu_network", task_scale=0.5, units=3, dtype=torch.float64)
    tokens, targets = task.sample(N, 0)
    assert float(targets.square().mean()) == pytest.approx(0.25 * 4 / 2, rel=0.08)
    assert abs(float((tokens[:, -1, 0] * targets).mean())) < 0.03


@pytest.mark.parametrize("noise", [0.0, 0.6])
@pytest.mark.parametrize("length", [3, 12])
def test_the_best_prediction_is_the_posterior_mean(noise: float, length: int) -> None:
    """Labels are jointly Gaussian given the covariates: conditioned on by the covariance of labels, not of weights."""
    task = InContextRegression(dimension=5, length=length, decay=0.5, task_decay=1.0, noise=noise, dtype=torch.float64)
    tokens, _ = task.sample(20, 1)
    predicted = task.bayes(tokens)
    prior = np.diag(np.arange(1.0, 6.0) ** -1.0)
    for prompt, found in zip(tokens.numpy(), predicted.tolist(), strict=True):
        inputs, labels, query = prompt[:-1, :-1], prompt[:-1, -1], prompt[-1, :-1]
        covariance = inputs @ prior @ inputs.T + noise**2 * np.eye(length)
        expected = query @ prior @ inputs.T @ np.linalg.pinv(covariance, rcond=1e-10, hermitian=True) @ labels
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_the_best_prediction_beats_its_neighbours() -> None:
    task = InContextRegression(dimension=5, length=8, noise=0.7, dtype=torch.float64)
    tokens, targets = task.sample(N // 3, 2)
    errors = [
        float((dataclasses.replace(task, noise=noise).bayes(tokens) - targets).square().mean())
        for noise in (0.3, 0.7, 1.5)
    ]
    assert min(errors) == errors[1]


def test_only_linear_responses_have_a_best_prediction() -> None:
    task = InContextRegression(response="sign")
    with pytest.raises(TaskError, match="response='sign' must be 'linear'"):
        task.bayes(task.sample(2, 0).inputs)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"length": 0}, "length=0 must be a whole number from 1 on"),
        ({"task_decay": math.inf}, "task_decay=inf must be a finite number"),
        ({"response": "cosine"}, "response='cosine' must be one of"),
        ({"covariance": "gamma"}, "covariance='gamma' must be one of"),
        ({"query_scale": -1.0}, "query_scale=-1.0 must be a finite number from 0"),
    ],
)
def test_a_bad_knob_is_one_line_that_names_it(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        InContextRegression(**knobs)
