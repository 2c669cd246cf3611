"""Nets of the studies of transfer: trained side by side as alone, and a limit that a literal net with its start has."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch.nn import functional

from separatrix.steer import parametrize
from separatrix.studies._embedding_limit import character_pairs, kernel_losses, limit_losses
from separatrix.studies._scaling import (
    CharTransformer,
    Scaling,
    digit_batches,
    losses_by_rate,
    losses_by_start,
    mlp,
    text_batches,
)

RATES = (0.001, 0.01)


@pytest.mark.parametrize(
    ("build", "draw"),
    [
        (mlp, digit_batches(0, 16)),
        (functools.partial(CharTransformer, layers=1, length=8), text_batches(0, 2, length=8)),
    ],
    ids=["mlp", "transformer"],
)
def test_nets_side_by_side_train_like_each_alone(build, draw) -> None:  # type: ignore[no-untyped-def]
    """Adam of torch on a parametrized net, with the rate of every step written out."""
    steps = 8
    found = losses_by_rate(Scaling(build, "maximal-update", 16), 32, RATES, 3, draw, steps)
    for index, peak in enumerate(RATES):
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(3)
            model = build(32)
        scaled = parametrize(model, base=lambda: build(16), delta=lambda: build(24))
        groups = scaled.param_groups(torch.optim.Adam, lr=peak)
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        whole, losses = [group["lr"] for group in groups], []
        for step in range(1, steps + 1):
            inputs, targets = draw(step)
            loss = functional.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            for group, lr in zip(optimizer.param_groups, whole, strict=True):
                group["lr"] = lr * min(step, 1) * SHARES[step - 1]
            optimizer.step()
            losses.append(float(loss.detach()))
        assert float(found[index]) == pytest.approx(np.mean(losses[-2:]), rel=2e-4)


def test_starts_side_by_side_train_like_each_alone() -> None:
    scaling, draw = Scaling(mlp, "maximal-update", 16), digit_batches(0, 16)
    together = losses_by_start(scaling, 32, 0.01, (3, 4), draw, 8)
    alone = [float(losses_by_rate(scaling, 32, (0.01,), seed, draw, 8)[0]) for seed in (3, 4)]
    assert together.tolist() == pytest.approx(alone, rel=1e-5)
    assert alone[0] != pytest.approx(alone[1], rel=1e-3)


SHARES = [1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]


def test_the_transformer_sees_no_future() -> None:
    model = CharTransformer(16, length=8)
    tokens = torch.arange(8)[None]
    changed = tokens.clone()
    changed[0, 5:] = 50
    torch.testing.assert_close(model(changed)[0, :5], model(tokens)[0, :5])
    assert not torch.allclose(model(changed)[0, 5:], model(tokens)[0, 5:])


def test_the_limit_is_a_net_that_starts_from_orthogonal_columns() -> None:
    """A literal net of width 64 whose columns are orthogonal by construction has the limit's losses exactly."""
    pairs, rate, width, words = character_pairs(10), 2.0, 64, 10
    generator = torch.Generator().manual_seed(0)
    columns = torch.linalg.qr(torch.randn(width, 2 * words, dtype=torch.float64, generator=generator)).Q * width**0.5
    embedding, readout = (part.clone().requires_grad_() for part in (columns[:, :words], columns[:, words:]))
    losses = []
    for _ in range(20):
        logits = readout.T @ embedding / width
        loss = -(pairs.shares * logits.log_softmax(0)).sum()
        gradients = torch.autograd.grad(loss, (embedding, readout))
        losses.append(float(loss.detach()))
        with torch.no_grad():
            for part, gradient in zip((embedding, readout), gradients, strict=True):
                part -= rate * width * gradient
    found = limit_losses(pairs, torch.tensor([rate], dtype=torch.float64), 20)[:, 0]
    assert found.tolist() == pytest.approx(losses, rel=1e-10)


def test_the_first_step_of_the_kernel_limit_is_that_of_the_limit() -> None:
    """Features have not moved before the second step; a small rate tells them apart in second order only."""
    pairs = character_pairs(10)
    rates = torch.tensor([1e-3, 1.0], dtype=torch.float64)
    features, kernel = limit_losses(pairs, rates, 10), kernel_losses(pairs, rates, 10)
    torch.testing.assert_close(features[:2], kernel[:2], rtol=1e-6, atol=0)
    torch.testing.assert_close(features[:, 0], kernel[:, 0], rtol=1e-5, atol=0)
    assert float((features[-1, 1] - kernel[-1, 1]).abs()) > 0.01


def test_pairs_are_shares() -> None:
    pairs = character_pairs(12)
    assert pairs.shares.shape == (12, 12)
    assert float(pairs.shares.sum()) == pytest.approx(1.0)
    assert float(pairs.slope(torch.zeros(12, 12, dtype=torch.float64)).sum()) == pytest.approx(0.0, abs=1e-12)
