"""What the studies of tuning and of averages write out by hand, against autograd, simulation and other nets."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from separatrix.steer.tuning.searching import quiet_optuna
from separatrix.studies import ema_scaling, hyperband, post_hoc_ema

DOUBLE = torch.float64


def test_the_gradient_of_the_net_on_digits_is_autograds() -> None:
    generator = torch.Generator().manual_seed(0)
    net = ema_scaling._drawn(2, 5, 3, generator)
    inputs = torch.randn(2, 7, 5, dtype=DOUBLE, generator=generator)
    targets = torch.randn(2, 7, 3, dtype=DOUBLE, generator=generator).softmax(2)
    leaves = [part.clone().requires_grad_() for part in net.parts()]
    logits = ema_scaling._Net(*leaves).outputs(inputs)[1]
    loss = -(targets * logits.log_softmax(2)).sum(2).mean(1).sum()
    expected = torch.autograd.grad(loss, leaves)
    for found, wanted in zip(net.gradient(inputs, targets).parts(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


def test_moments_of_the_quadratic_are_those_of_a_simulation() -> None:
    rate, momentum, noise, steps, copies = 0.1, 0.8, 0.5, 30, 200_000
    generator = torch.Generator().manual_seed(0)
    weight, average = torch.ones(copies, dtype=DOUBLE), torch.ones(copies, dtype=DOUBLE)
    found = ema_scaling._moments(rate, momentum, noise, steps)
    for step in range(steps):
        weight = weight - rate * (weight + noise * torch.randn(copies, dtype=DOUBLE, generator=generator))
        average = momentum * average + (1 - momentum) * weight
        assert float(found[step, 0]) == pytest.approx(float(average.mean()), abs=5 * float(average.std()) / copies**0.5)
        assert float(found[step, 1]) == pytest.approx(float(average.std()), rel=0.01)


def test_large_batches_hold_the_same_examples() -> None:
    rows = torch.arange(24).view(6, 2, 2)
    assert ema_scaling._joined(rows, 1, 3).tolist() == [[12, 13, 16, 17, 20, 21], [14, 15, 18, 19, 22, 23]]


def test_a_narrow_net_is_a_wide_one_without_further_units() -> None:
    generator = torch.Generator().manual_seed(0)
    net = hyperband._Net(6, generator)
    inputs, labels = torch.rand(20, 64, generator=generator), torch.randint(10, (20,), generator=generator)
    narrow = [
        part.detach().clone().requires_grad_() for part in (net.first[:, :6], net.bias[:6], net.second[:6], net.offset)
    ]
    for values in (list(net.parameters()), narrow):
        optimizer = torch.optim.SGD(values, lr=0.5, momentum=0.9, weight_decay=1e-3)
        for _ in range(10):
            optimizer.zero_grad()
            first, bias, second, offset = values
            functional.cross_entropy(torch.relu(inputs @ first + bias) @ second + offset, labels).backward()
            optimizer.step()
    torch.testing.assert_close(net.first[:, :6], narrow[0])
    torch.testing.assert_close(net.second[:6], narrow[2])
    assert not net.first[:, 6:].any() and not net.second[6:].any() and not net.bias[6:].any()


def test_configurations_drawn_ahead_are_those_that_the_search_asks_for() -> None:
    plan = hyperband.brackets(9, 3)
    drawn = hyperband._drawn(3, sum(bracket.configurations for bracket in plan))
    asked = []

    def train(jobs: list[hyperband.Job]) -> list[float]:
        asked.extend((job.number, dict(job.parameters)) for job in jobs)
        return [float(job.number) for job in jobs]

    with quiet_optuna():
        hyperband.hyperband(hyperband._sampling(3), hyperband._SPACE, train, plan)
    assert all(drawn[number] == parameters for number, parameters in asked)


def test_a_race_is_charged_for_the_epochs_that_it_would_have_run() -> None:
    plan = hyperband.brackets(9, 3)
    count = sum(bracket.configurations for bracket in plan)
    pool = torch.rand(9, count, generator=torch.Generator().manual_seed(0))
    curve = hyperband._hyperband(pool, plan, 0, None)
    assert curve.spent[-1] == sum(float(bracket.cost(resumed=True)) for bracket in plan)
    assert curve.errors[:9] == pytest.approx(pool[0, :9].tolist())
    assert curve.reached(-1.0) == math.inf and curve.best(0.0) == 1.0


def test_forced_layers_keep_magnitudes() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = post_hoc_ema._Layer(2, 50, 40, True, generator)
    torch.testing.assert_close(layer.weight.square().mean(2), torch.ones(2, 40))
    signal = torch.randn(2, 4000, 50, generator=generator)
    assert float(layer(signal).detach().square().mean()) == pytest.approx(1.0, rel=0.05)
    passed = functional.silu(torch.randn(100_000, generator=generator)) / post_hoc_ema._SILU
    assert float(passed.square().mean()) == pytest.approx(1.0, rel=0.02)


def test_the_denoisers_target_gives_back_the_image() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 50, 64, generator=generator)
    batch = post_hoc_ema._noised(images, generator)
    total = batch.level.square() + post_hoc_ema._SIGNAL**2
    skipped = post_hoc_ema._SIGNAL**2 / total * batch.noisy
    returned = skipped + batch.level * post_hoc_ema._SIGNAL / total.sqrt() * batch.wanted
    torch.testing.assert_close(returned, images, rtol=1e-4, atol=1e-4)
