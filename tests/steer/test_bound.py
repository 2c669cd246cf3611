"""The last-iterate bound against exact fractions, closed forms, and losses that were measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from separatrix.steer.schedules import (
    ScheduleError,
    best_base_rate,
    bound_curve,
    constant,
    cosine,
    extension_rate,
    last_iterate_bound,
    linear,
    rank,
    scale_of,
    wsd,
)


def _literally(rates: list[float], distance: float, norms: list[float]) -> float:
    """The theorem's sums as they are written, in exact fractions."""
    eta, g = [Fraction(rate) for rate in rates], [Fraction(norm) for norm in norms]
    count = len(eta)
    total = sum(eta)
    squares = [a**2 * b**2 for a, b in zip(eta, g, strict=True)]
    value = Fraction(distance) ** 2 / (2 * total) + sum(squares) / (2 * total)
    for k in range(count - 1):
        value += eta[k] / sum(eta[k + 1 :]) * sum(squares[k:]) / sum(eta[k:]) / 2
    return float(value)


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_is_the_theorems_sum(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rates = np.exp(generator.normal(0, 2, 60))
    norms = np.exp(generator.normal(0, 1, 60))
    expected = _literally(rates.tolist(), 1.7, norms.tolist())
    assert last_iterate_bound(rates, 1.7, norms).value == pytest.approx(expected, rel=1e-13)


def test_rates_over_many_orders_lose_nothing() -> None:
    rates = np.logspace(8, -8, 80)
    assert last_iterate_bound(rates).value == pytest.approx(_literally(rates.tolist(), 1.0, [1.0] * 80), rel=1e-13)


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_closed_forms_of_constant_and_linear(steps: int) -> None:
    distance, norm, rate = 3.0, 0.7, 0.2
    harmonic = sum(1 / k for k in range(1, steps))
    flat = distance**2 / (2 * steps * rate) + rate * norm**2 * (1 + harmonic) / 2
    assert last_iterate_bound(rate * constant(steps).values(), distance, norm).value == pytest.approx(flat, rel=1e-12)
    falling = distance**2 / ((steps + 1) * rate) + rate * norm**2 * (1 + (harmonic - 0.5) / steps)
    assert last_iterate_bound(rate * linear(steps).values(), distance, norm).value == pytest.approx(falling, rel=1e-12)
    best = best_base_rate(constant(steps).values(), distance, norm)
    assert best.rate == pytest.approx(distance / norm / math.sqrt(steps * (1 + harmonic)), rel=1e-12)
    assert best.bound == pytest.approx(distance * norm * math.sqrt((1 + harmonic) / steps), rel=1e-12)


def test_the_curve_is_the_bound_of_every_beginning() -> None:
    rates, norms = 0.3 * wsd(40, warmup=5).values(), np.linspace(2, 1, 40)
    expected = [_literally(rates[:t].tolist(), 2.0, norms[:t].tolist()) for t in range(1, 41)]
    np.testing.assert_allclose(bound_curve(rates, 2.0, norms), expected, rtol=1e-12)
    np.testing.assert_allclose(bound_curve(rates, 2.0, norms, at=[3, 39]), [expected[3], expected[39]], rtol=1e-12)


def test_the_best_base_rate_is_the_least_of_a_search() -> None:
    factors, norms = cosine(50, warmup=4).values(), np.linspace(3, 1, 50)
    found = minimize_scalar(
        lambda log: last_iterate_bound(math.exp(log) * factors, 2.0, norms).value, bounds=(-9, 4), method="bounded"
    )
    best = best_base_rate(factors, 2.0, norms)
    assert best.rate == pytest.approx(math.exp(found.x), rel=1e-4)
    assert best.bound == pytest.approx(found.fun, rel=1e-8)
    assert last_iterate_bound(best.rate * factors, 2.0, norms).value == pytest.approx(best.bound, rel=1e-12)


def test_steps_of_rate_zero_change_nothing_and_the_last_may_be_any() -> None:
    rates = np.array([0.5, 0.4, 0.2])
    assert last_iterate_bound([0.5, 0.0, 0.4, 0.0, 0.2]).value == last_iterate_bound(rates).value
    ended = last_iterate_bound([0.5, 0.4, 0.2, 0.0, 0.0])
    tried = [_literally([0.5, 0.4, 0.2, float(last)], 1.0, [1.0] * 4) for last in np.logspace(-3, 2, 2001)]
    assert ended.value == pytest.approx(min(tried), rel=1e-5)
    assert ended.value <= min(tried)
    assert last_iterate_bound([0.0], 2.0, 3.0).value == pytest.approx(6.0)  # D G
    best = best_base_rate([1.0, 0.5, 0.0])
    assert last_iterate_bound(best.rate * np.array([1.0, 0.5, 0.0])).value == pytest.approx(best.bound, rel=1e-6)


def test_the_loss_of_subgradient_descent_stays_below() -> None:
    generator = np.random.default_rng(5)
    matrix, target = generator.normal(size=(30, 6)), generator.normal(size=30)
    optimum = generator.normal(size=6)
    target = matrix @ optimum  # |Ax - b| / n, zero at the optimum
    norm = np.linalg.norm(matrix, axis=1).mean()  # bounds every subgradient of the mean

    def loss(x: np.ndarray) -> float:
        return float(np.abs(matrix @ x - target).mean())

    for schedule in (constant(200), linear(200), cosine(200), wsd(200)):
        for scale in (0.1, 1.0, 10.0):
            rates = (
                scale * best_base_rate(schedule.values(), float(np.linalg.norm(optimum)), norm).rate * schedule.values()
            )
            x, losses, norms = np.zeros(6), [], []
            for rate in rates:
                gradient = np.sign(matrix @ x - target) @ matrix / 30
                losses.append(loss(x))
                norms.append(np.linalg.norm(gradient))
                x = x - rate * gradient
            bounds = bound_curve(rates, float(np.linalg.norm(optimum)), norms)
            assert (np.array(losses) <= bounds).all()
    assert norm >= max(norms)


def test_ranking_needs_no_scale_and_prefers_cooldown() -> None:
    schedules = [constant(400), cosine(400), linear(400), wsd(400)]
    found = rank(schedules)
    assert list(found)[-1] == "constant"
    assert list(rank(schedules, 5.0, 0.1)) == list(found)
    assert list(found.values()) == sorted(found.values(), key=lambda best: best.bound)
    assert list(rank({"a": np.ones(400), "b": linear(400).values()})) == ["b", "a"]


def test_an_extension_has_the_rate_that_a_grid_finds() -> None:
    first = wsd(200, cooldown=40)
    base = best_base_rate(first.values()).rate
    done, more = base * first.values()[:160], base * wsd(400, cooldown=80).values()[160:]
    best = extension_rate(done, more)
    grid = np.logspace(-2, 1, 1001)
    losses = [last_iterate_bound(np.concatenate([done, factor * more])).value for factor in grid]
    assert best.rate == pytest.approx(grid[int(np.argmin(losses))], rel=0.01)
    assert best.bound <= min(losses) * (1 + 1e-9)
    assert best.rate < 1  # a longer horizon wants a lower rate


def test_the_scale_that_tuning_told_gives_the_rate_back() -> None:
    factors = wsd(300, warmup=10).values()
    assert best_base_rate(factors, distance=scale_of(factors, 0.37)).rate == pytest.approx(0.37)


def test_a_million_steps_take_no_time() -> None:
    start = time.perf_counter()
    last_iterate_bound(np.linspace(1, 1e-6, 1_000_000))
    assert time.perf_counter() - start < 2.0


@pytest.mark.parametrize(
    "build",
    [
        lambda: last_iterate_bound([]),
        lambda: last_iterate_bound([[1.0]]),
        lambda: last_iterate_bound([1.0, -1.0]),
        lambda: last_iterate_bound([1.0, math.inf]),
        lambda: last_iterate_bound([1.0], distance=0.0),
        lambda: last_iterate_bound([1.0, 1.0], gradient_norm=[1.0]),
        lambda: last_iterate_bound([1.0], gradient_norm=-1.0),
        lambda: bound_curve([1.0], at=[1]),
        lambda: best_base_rate([0.0, 0.0]),
        lambda: best_base_rate([1.0, 1.0], gradient_norm=0.0),
        lambda: rank([]),
        lambda: rank([linear(10), linear(20)]),
        lambda: scale_of([1.0], 0.0),
    ],
)
def test_bad_input_is_refused_in_one_line(build: Callable[[], object]) -> None:
    with pytest.raises(ScheduleError) as caught:
        build()
    assert "\n" not in str(caught.value)
