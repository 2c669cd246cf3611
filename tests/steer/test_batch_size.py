"""Advice on the batch size against the tradeoff's own equation and a simulated one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

import separatrix
from separatrix.steer.batch_size import advise_batch_size, batch_cost, rate_factor
from separatrix.steer.schedules import ScheduleError


@pytest.mark.parametrize("batch", [1, 30, 1000])
def test_costs_lie_on_the_hyperbola(batch: int) -> None:
    cost = batch_cost(batch, 30.0)
    assert (cost.steps - 1) * (cost.examples - 1) == pytest.approx(1.0)
    # Examples are steps times the batch, in units where the least of each are 1 and the critical batch.
    assert cost.examples == pytest.approx(cost.steps * batch / 30.0)
    assert batch_cost(30.0, 30.0).steps == batch_cost(30.0, 30.0).examples == 2.0


def test_the_best_rate_is_that_of_a_noisy_quadratic() -> None:
    """One step on c x^2 / 2 gains most at 1 / (c (1 + scale / B)), by expanding the expected loss."""
    curvature, x, variance = 3.0, 2.0, 40.0
    gradient = curvature * x
    scale = variance / gradient**2

    def best(batch: float) -> float:
        rates = [k * 1e-5 for k in range(1, 40_000)]
        return min(rates, key=lambda r: -r * gradient**2 + r * r * curvature / 2 * (gradient**2 + variance / batch))

    for before, after in ((0.1, 0.2), (1.0, 8.0), (64.0, 16.0)):
        assert rate_factor(before, after, scale) == pytest.approx(best(after) / best(before), rel=2e-3)
    assert rate_factor(1.0, 4.0, 1e9) == pytest.approx(4.0)
    assert rate_factor(1.0, 4.0, 1e9, "adam") == pytest.approx(2.0)


def test_a_run_is_advised_from_its_later_half(make_run: Callable[..., Path]) -> None:
    path = make_run(
        scalars={
            "batch_size": dict.fromkeys(range(1, 101), 32.0),
            "gradient_noise_scale": {1: 5.0, 40: 20.0, 60: 480.0, 80: 500.0, 100: 520.0, 90: math.nan},
            "gradient_noise_scale_low": {60: 100.0, 80: 200.0, 100: 300.0},
            "gradient_noise_scale_high": {60: 900.0, 80: math.inf, 100: math.inf},
            "beta2": {1: 0.999},
        }
    )
    with separatrix.open(path) as run:
        advice = advise_batch_size(run)
        sgd = advise_batch_size(run, kind="sgd")
        with pytest.raises(ScheduleError, match="choose sgd or adam"):
            advise_batch_size(run, kind="lion")  # type: ignore[arg-type]
    assert advice is not None
    assert sgd is not None
    assert advice.noise_scale == pytest.approx(500.0)
    assert (advice.low, advice.high) == (200.0, math.inf)
    assert advice.suggested.batch_size == 512.0
    assert advice.now.steps == pytest.approx(1 + 500 / 32)
    assert sgd.rate_factor == pytest.approx((1 + 500 / 32) / (1 + 500 / 512))
    assert advice.rate_factor == pytest.approx(math.sqrt(sgd.rate_factor))


@pytest.mark.parametrize(
    "scalars",
    [
        {"batch_size": [32.0]},
        {"gradient_noise_scale": [1.0]},
        {"batch_size": [8.0], "gradient_noise_scale": [math.nan]},
    ],
)
def test_without_the_series_there_is_no_advice(make_run: Callable[..., Path], scalars: dict[str, list[float]]) -> None:
    with separatrix.open(make_run(scalars=scalars)) as run:
        assert advise_batch_size(run) is None


@pytest.mark.parametrize("sizes", [(0.0, 1.0), (1.0, -1.0), (math.inf, 1.0), (1.0, math.nan)])
def test_bad_sizes_are_refused(sizes: tuple[float, float]) -> None:
    with pytest.raises(ScheduleError, match="give positive numbers"):
        batch_cost(*sizes)
