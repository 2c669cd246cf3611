"""Refined schedules against the algorithm written out, closed forms, and the theorem they rest on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import separatrix
from separatrix.runs import UnknownSeriesError
from separatrix.steer.schedules import ScheduleError, linear, refine, refined_base_rate


def _written_out(norms: list[float], smoothing: float, power: float) -> list[float]:
    """Median, weights and tails by loops: the first norm repeated to the left, norms mirrored at the last one."""
    count = len(norms)
    width = 2 * (int(smoothing * count) // 2) + 1
    half = width // 2
    smooth = []
    for t in range(count):
        window = []
        for s in range(t - half, t + half + 1):
            index = 0 if s < 0 else s if s < count else 2 * (count - 1) - s
            window.append(norms[index])
        smooth.append(sorted(window)[half])
    weights = [norm**power for norm in smooth]
    rates = [weights[t] * sum(weights[t + 1 :]) for t in range(count)]
    return [rate / max(rates) for rate in rates]


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_the_schedule_is_the_algorithms(norm: str, smoothing: float) -> None:
    norms = np.exp(np.random.default_rng(1).normal(size=97)) * np.linspace(3, 0.5, 97)
    expected = _written_out(norms.tolist(), smoothing, {"l2": -2.0, "l1": -1.0}[norm])
    found = refine(norms, smoothing=smoothing, norm=norm)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.values(), expected, rtol=1e-12, atol=1e-15)


def test_equal_norms_give_linear_decay() -> None:
    np.testing.assert_allclose(refine(np.full(50, 1e-170)).values(), np.arange(49, -1, -1) / 49, atol=1e-12)
    assert refine(np.full(50, 3.0), steps=49)(24) == pytest.approx(linear(48)(24))


def test_falling_norms_give_warm_up_and_rising_ones_annealing() -> None:
    x = np.linspace(0, 1, 400)
    early = refine(1 + 9 * np.exp(-x / 0.03)).values()
    assert 20 < int(np.argmax(early)) < 200
    late = refine(1 + 9 * np.exp(-(1 - x) / 0.03)).values()
    assert late[380] < 0.25 * linear(400)(380)


def test_rates_from_norms_bound_the_last_iterate() -> None:
    generator = np.random.default_rng(3)
    matrix, optimum = generator.normal(size=(40, 5)), generator.normal(size=5)
    target = matrix @ optimum
    distance = float(np.linalg.norm(optimum))
    # A function of the weights alone, so that the theorem holds for any weights; norms are those of the descent itself.
    for weights in (np.ones(100), np.linspace(1, 3, 100), generator.uniform(0.2, 2.0, 100)):
        scaled = 0.05 * weights
        x, norms = np.zeros(5), []
        for t in range(100):
            gradient = np.sign(matrix @ x - target) @ matrix / 40
            norms.append(np.linalg.norm(gradient))
            value = np.abs(matrix @ x - target).mean()
            x = x - scaled[t] * scaled[t + 1 :].sum() / scaled.sum() * gradient
        bound = (distance**2 + np.sum((scaled * norms) ** 2)) / (2 * scaled.sum())
        assert value <= bound


def test_the_best_base_rate_has_the_least_bound_over_all_weights() -> None:
    norms, distance = np.exp(np.random.default_rng(4).normal(size=60)), 2.0
    best = refined_base_rate(norms, distance)

    def bound(weights: np.ndarray) -> float:
        return float((distance**2 + np.sum((weights * norms) ** 2)) / (2 * weights.sum()))

    weights = distance / np.sqrt(np.sum(norms**-2)) * norms**-2
    assert best.bound == pytest.approx(bound(weights), rel=1e-12)
    tails = np.array([weights[t + 1 :].sum() for t in range(60)])
    assert best.rate == pytest.approx((weights * tails).max() / weights.sum(), rel=1e-12)
    generator = np.random.default_rng(6)
    assert all(bound(weights * np.exp(0.1 * generator.normal(size=60))) >= best.bound for _ in range(100))
    flat = refined_base_rate(np.full(100, 0.5), 3.0)
    assert flat.bound == pytest.approx(3.0 * 0.5 / 10)
    assert flat.rate == pytest.approx(3.0 / 0.5 / 10 * 0.99)


def test_a_recorded_run_is_refined_from_the_norms_it_holds(make_run: Callable[..., Path]) -> None:
    norms = np.exp(-np.arange(1, 201) / 60)  # interpolation in the logarithm is exact
    seen = {step: float(norms[step - 1]) for step in (1, 2, 3, 5, 10, 30, 31, 90, 150, 200)}
    path = make_run(scalars={"loss": [1.0] * 200, "gradient_norm": seen | {40: float("nan")}})
    with separatrix.open(path) as run:
        np.testing.assert_allclose(refine(run).values(), refine(norms).values(), rtol=1e-5)
        with pytest.raises(UnknownSeriesError):
            refine(run, series="gradient_l1")


def test_norms_apart_by_parameter_are_refused(make_run: Callable[..., Path]) -> None:
    path = make_run(labelled={"gradient_rms": ("parameter", ["a", "b"], [1, 2], [[1.0, 2.0], [1.0, 2.0]])})
    with separatrix.open(path) as run, pytest.raises(ScheduleError, match="has parameter"):
        refine(run, series="gradient_rms")


@pytest.mark.parametrize(
    "build",
    [
        lambda: refine([1.0] * 7),
        lambda: refine([1.0] * 20 + [np.nan]),
        lambda: refine([1.0] * 20 + [-1.0]),
        lambda: refine([0.0] * 20),
        lambda: refine([1.0] * 20, smoothing=1.5),
        lambda: refine([1.0] * 20, norm="max"),  # type: ignore[arg-type]
        lambda: refine([1.0] * 20, steps=0),
        lambda: refined_base_rate([1.0, 0.0], 1.0),
        lambda: refined_base_rate([1.0, 1.0], 0.0),
    ],
)
def test_bad_norms_are_refused_in_one_line(build: Callable[[], object]) -> None:
    with pytest.raises(ScheduleError) as caught:
        build()
    assert "\n" not in str(caught.value)
