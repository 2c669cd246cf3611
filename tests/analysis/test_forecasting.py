"""Loss forecasts against planted curves, brute force, and noisy descent on a quadratic."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from tests.conftest import MakeRun

from separatrix.analysis.forecasting import LAWS, Curve, curve_of, fit, forecast, rates_of
from separatrix.analysis.forecasting.areas import annealing_area, relaxed_falls
from separatrix.runs import open_run
from separatrix.runs.errors import UsageError

PEAK = 0.01
PLANTED: Mapping[str, Mapping[str, float]] = {
    "annealing": {"floor": 1.5, "scale": 1.2, "exponent": 0.45, "annealing": 0.3, "memory": 0.98},
    "relaxation": {"floor": 1.5, "scale": 1.2, "exponent": 0.45, "noise": 15.0, "area": 0.5},
    "forward": {"floor": 1.5, "scale": 1.2, "exponent": 0.45},
    "power": {"floor": 1.5, "scale": 3.0, "exponent": 0.3},
}


def constant(updates: int) -> np.ndarray:
    return np.full(updates, PEAK)


def cosine(updates: int, low: float = 0.1) -> np.ndarray:
    share = np.arange(updates) / updates
    return PEAK * (low + (1 - low) * (1 + np.cos(np.pi * share)) / 2)


def decayed(updates: int, share: float = 0.2) -> np.ndarray:
    return PEAK * np.minimum(1.0, np.arange(updates, 0, -1) / (share * updates))


def planted(law: str, rates: np.ndarray, noise: float = 0.0, seed: int = 0, memory: float = 0.6) -> Curve:
    """A curve of the law with noise that hangs together from point to point."""
    updates = np.arange(10, len(rates) + 1, 10)
    scatter = np.random.default_rng(seed).standard_normal(len(updates))
    for index in range(1, len(scatter)):
        scatter[index] = memory * scatter[index - 1] + math.sqrt(1 - memory**2) * scatter[index]
    losses = LAWS[law].value(PLANTED[law], rates)[updates - 1] * np.exp(noise * scatter)
    return Curve(updates, losses, rates, f"{law}")


def test_annealing_area_is_the_double_sum_of_the_paper() -> None:
    rates = np.concatenate([np.linspace(0.1, 1.0, 5), [1.0, 0.7, 0.7, 0.8, 0.2, 0.0]])
    top = 5  # the last step at the full rate, after the warm-up
    expected = [
        sum((rates[k - 1] - rates[k]) * 0.9 ** (i - k) for i in range(top + 1, step + 1) for k in range(top + 1, i + 1))
        for step in range(len(rates))
    ]
    np.testing.assert_allclose(annealing_area(rates, 0.9), expected, rtol=1e-12, atol=1e-15)


def test_relaxed_falls_are_the_sum_over_falls() -> None:
    rates = np.concatenate([np.linspace(0.1, 1.0, 5), [1.0, 0.7, 0.7, 0.8, 0.2, 0.0]])
    expected = [
        sum((rates[k - 1] - rates[k]) * (1 - math.exp(-rates[k : step + 1].sum() / 0.6)) for k in range(6, step + 1))
        for step in range(len(rates))
    ]
    np.testing.assert_allclose(relaxed_falls(rates, 0.6), expected, rtol=1e-12, atol=1e-15)


def test_relaxation_is_what_noisy_descent_on_a_quadratic_does() -> None:
    """Second moments of SGD with noise of variance s^2 on h x^2 / 2, from the steady state of the highest rate on.

    The law is the limit of small rates: its error is of the order of rate times curvature.
    """
    curvature, noise = 2.0, 1.5
    rates = np.concatenate([constant(500), decayed(1500, 0.8)])
    moment = rates[0] * noise**2 / (curvature * (2 - rates[0] * curvature))
    losses = []
    for rate in rates:
        moment = (1 - rate * curvature) ** 2 * moment + rate**2 * noise**2
        losses.append(0.5 * curvature * moment)
    size = noise**2 / 4  # loss per unit of rate
    expected = size * (PEAK - relaxed_falls(rates, 1 / (2 * curvature)))
    np.testing.assert_allclose(losses, expected, rtol=0, atol=2 * PEAK * curvature * size * PEAK)
    slower = size * (PEAK - relaxed_falls(rates, 2 / curvature))
    assert np.abs(np.array(losses) - slower).max() > 10 * np.abs(np.array(losses) - expected).max()


@pytest.mark.parametrize("law", PLANTED)
def test_fits_find_planted_constants(law: str) -> None:
    fitted = fit([planted(law, constant(2000)), planted(law, cosine(2000))], law)
    assert dict(fitted.constants) == pytest.approx(dict(PLANTED[law]), rel=1e-4)
    assert np.abs(fitted.residuals).max() < 1e-6


def test_a_few_wild_losses_change_little() -> None:
    curves = [planted("annealing", constant(2000), 1e-3), planted("annealing", cosine(2000), 1e-3, seed=1)]
    wild = curves[0].losses.copy()
    wild[20::20] *= 3.0
    spoilt = [Curve(curves[0].updates, wild, curves[0].rates), curves[1]]
    end = decayed(2000)
    clean, dirty = (fit(each, "annealing").predict(end)[-1] for each in (curves, spoilt))
    assert dirty == pytest.approx(clean, rel=2e-3)  # a twentieth of the first curve is off by a factor three


def test_intervals_hold_the_loss_as_often_as_they_say() -> None:
    """Nominal 60 % over 30 forecasts to twice the length: the bounds are a binomial's, at 1 in 500 on both sides."""
    rates = decayed(4000)
    truth = LAWS["annealing"].value(PLANTED["annealing"], rates)[-1]
    hits = 0
    for seed in range(0, 90, 3):
        curves = [
            planted("annealing", constant(2000), 4e-3, seed),
            planted("annealing", cosine(2000), 4e-3, seed + 1),
        ]
        measured = truth * math.exp(4e-3 * np.random.default_rng(seed + 2).standard_normal())
        _, low, high = forecast(curves, rates, len(rates), law="annealing", level=0.6, seed=seed, draws=20).final
        hits += low <= measured <= high
    assert 10 <= hits <= 26


def test_without_a_fall_of_the_rate_annealing_is_unknown() -> None:
    found = forecast([planted("annealing", constant(1000))], decayed(1000), 1000, draws=5)
    assert not found.annealed
    assert found.final[0] > LAWS["annealing"].value(PLANTED["annealing"], decayed(1000))[-1]
    assert forecast([planted("annealing", cosine(1000))], constant(1000), 1000, draws=5).annealed


def test_forecasts_of_planted_curves_beat_the_baselines_and_repeat() -> None:
    curves = [planted("annealing", constant(1000), 1e-3), planted("annealing", cosine(1000), 1e-3, seed=1)]
    rates = decayed(3000)
    truth = LAWS["annealing"].value(PLANTED["annealing"], rates)[-1]
    found = forecast(curves, lambda step: float(rates[step]), 3000, law="annealing", draws=20)
    assert abs(found.final[0] / truth - 1) < 0.005 < min(abs(value / truth - 1) for value in found.baselines.values())
    again = forecast(curves, rates, 3000, law="annealing", draws=20)
    assert again.to_dict() == found.to_dict()
    assert [point["step"] for point in found.to_dict(points=3)["curve"]] == [1000, 2000, 3000]


def test_curves_of_runs(make_run: MakeRun) -> None:
    losses = {step: 2.0 / math.sqrt(step) for step in range(1, 1001)}
    rates = {1: 0.1, 501: 0.05}
    run = open_run(make_run(scalars={"loss": losses, "learning_rate": rates}))
    curve = curve_of(run)
    assert len(curve.updates) == 300 and len(curve.rates) == 1000
    assert curve.rates[499] == 0.1 and curve.rates[500] == 0.05
    np.testing.assert_allclose(curve.losses[9:], 2.0 / np.sqrt(curve.updates[9:]), rtol=0.01)
    assert len(curve_of(run, last=600).rates) == 600
    half = curve.first(0.5)
    assert len(half.rates) == 500 and half.updates[-1] <= 500
    evaluated = {step: 1.0 + 1.0 / step for step in range(20, 1001, 20)}
    other = make_run("other", scalars={"loss": losses, "eval_loss": evaluated, "learning_rate": rates})
    assert curve_of(open_run(other)).losses[0] == pytest.approx(1.05)
    assert curve_of(open_run(other), series="loss").losses[0] > 1.1


def test_settled_leaves_out_warm_up_and_start() -> None:
    rates = np.minimum(1.0, np.arange(1, 101) / 30)
    curve = Curve(np.arange(1, 101), np.ones(100), rates)
    assert curve.settled(0.1).updates[0] == 30
    assert curve.settled(0.5).updates[0] == 51


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rates_of(np.ones(3), 4), "holds no 4 steps"),
        (lambda: rates_of(lambda step: -1.0, 2), "negative"),
        (lambda: rates_of(np.ones(3), 0), "at least 1"),
        (lambda: Curve(np.array([1, 2]), np.ones(3), np.ones(3)), "one for each"),
        (lambda: Curve(np.array([2, 1]), np.ones(2), np.ones(3)), "must increase"),
        (lambda: Curve(np.array([1, 4]), np.ones(2), np.ones(3)), "at most 3"),
        (lambda: Curve(np.array([1, 2]), np.array([1.0, -1.0]), np.ones(3)), "positive"),
        (lambda: fit([planted("power", constant(1000))], "guess"), "choose from annealing"),
        (lambda: fit([planted("power", constant(50))], "annealing"), "too few"),
        (lambda: forecast([], np.ones(3), 3), "at least one curve"),
        (lambda: forecast([planted("power", constant(1000))], np.ones(3), 3, level=1.0), "no probability"),
        (
            lambda: forecast(
                [dataclasses.replace(planted("power", constant(99)), series=each) for each in ("loss", "eval_loss")],
                np.ones(3),
                3,
            ),
            "of eval_loss and loss",
        ),
        (lambda: Curve(np.arange(1, 90), np.ones(89), np.arange(1.0, 101)).settled(), "after its warm-up"),
    ],
)
def test_bad_requests_are_one_line(call: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("scalars", "words"),
    [
        ({"loss": [1.0] * 50}, "no learning_rate"),
        ({"loss": [1.0] * 5, "learning_rate": {1: 0.1}}, "at least 12"),
        ({"learning_rate": {1: 0.1}}, "exactly one"),
    ],
)
def test_runs_that_give_no_curve(make_run: MakeRun, scalars: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        curve_of(open_run(make_run(scalars=scalars)))
