"""Scores against closed forms: known distances of densities, spectra and forecasts."""

from __future__ import annotations

import collections
import math
from typing import Any

import numpy as np
import pytest

from separatrix.reconstruct import TrajectoryError, fit, trajectories
from separatrix.reconstruct.intervals import calibrate
from separatrix.reconstruct.scores import (
    Histogram,
    normalised_error,
    power_spectrum_distance,
    smape,
    spectrum_error,
    state_space_divergence,
    valid_times,
)
from separatrix.runs import UsageError


def test_valid_times_are_in_lyapunov_times() -> None:
    truth = np.zeros((3, 100, 2))
    forecast = truth.copy()
    forecast[0, 40:] = 1.0  # an error of one spread from step 40 on
    forecast[1, 10:, 0] = np.nan
    forecast[2] = 0.39 * 2.0  # 0.39 spreads
    times = valid_times(forecast, truth, 0.01, 0.9, np.array([1.0, 1.0]))
    np.testing.assert_allclose(times[:2], [40 * 0.01 * 0.9, 10 * 0.01 * 0.9])
    assert times[2] == 0.0
    halved = valid_times(forecast, truth, 0.01, 0.9, np.array([2.0, 2.0]))
    np.testing.assert_allclose(halved[2], 100 * 0.01 * 0.9)
    with pytest.raises(UsageError, match="not positive"):
        valid_times(forecast, truth, 0.01, -0.1, np.ones(2))


def test_percentages() -> None:
    truth, forecast = np.array([[[1.0], [2.0], [0.0]]]), np.array([[[3.0], [2.0], [0.0]]])
    assert smape(forecast, truth) == pytest.approx(200 * (2 / 4) / 3)
    assert smape(np.full_like(truth, np.nan), truth) == 200.0
    assert smape(-truth - 1e-300, truth) == pytest.approx(200.0)
    with pytest.raises(UsageError, match="equal stretches"):
        smape(forecast[:, :2], truth)


def test_errors_by_step_are_in_spreads_of_each_variable() -> None:
    truth = np.zeros((4, 3, 2))
    forecast = truth + np.array([2.0, 30.0])
    np.testing.assert_allclose(normalised_error(forecast, truth, np.array([2.0, 10.0])), math.sqrt((1 + 9) / 2))
    forecast[2, 1:] = np.nan
    assert normalised_error(forecast, truth, np.ones(2)).tolist()[1:] == [math.inf, math.inf]


def test_the_divergence_of_two_shares_is_that_of_the_formula() -> None:
    truth = np.repeat([0.0, 1.0], [3000, 1000])[:, None]
    generated = np.repeat([0.0, 1.0], [1000, 3000])[:, None]
    exact = 0.75 * math.log(3) + 0.25 * math.log(1 / 3)
    assert state_space_divergence(generated, truth, bins=2) == pytest.approx(exact, abs=2e-3)
    assert state_space_divergence(truth, truth, bins=2) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("method", "tolerance"), [("histogram", 0.05), ("mixture", 0.1)])
def test_the_divergence_of_normal_densities(method: str, tolerance: float) -> None:
    generator = np.random.default_rng(0)
    truth = generator.standard_normal((6000, 1))
    shifted = 0.5 + generator.standard_normal((6000, 1))
    # exact: 0.5^2 / 2; sampling adds about cells / samples, the mixture's width takes a hundredth
    found = state_space_divergence(shifted, truth, bins=30, method=method)
    assert found == pytest.approx(0.125, abs=tolerance)
    same = state_space_divergence(generator.standard_normal((6000, 1)), truth, bins=30, method=method)
    assert abs(same) < 0.03 < found


def test_the_mixture_is_taken_where_cells_would_be_too_many() -> None:
    generator = np.random.default_rng(1)
    truth, same, far = generator.standard_normal((500, 6)), generator.standard_normal((500, 6)), np.zeros((500, 6))
    assert state_space_divergence(same, truth) < state_space_divergence(far + 3.0, truth)
    assert state_space_divergence(np.full((5, 6), np.nan), truth) == math.inf


def test_samples_outside_the_range_count_as_elsewhere() -> None:
    truth = np.linspace(0, 1, 1000)[:, None]
    inside = state_space_divergence(truth, truth, bins=10)
    half = state_space_divergence(np.concatenate([truth, truth + 5.0]), truth, bins=10)
    assert inside == pytest.approx(0.0, abs=1e-6)
    assert half == pytest.approx(math.log(2), abs=0.01)  # half of the generated mass is lost


@pytest.mark.parametrize(("variables", "bins"), [(1, 30), (2, 7), (3, 30), (3, 101)])
def test_a_histogram_made_once_counts_as_a_dictionary_of_cells_does(variables: int, bins: int) -> None:
    generator = np.random.default_rng(variables)
    truth = generator.standard_normal((700, variables))
    kept = Histogram.of(truth, bins)
    for scale in (0.1, 1.0, 3.0):
        generated = np.concatenate([scale * generator.standard_normal((500, variables)), truth[:50]])
        low, width = truth.min(axis=0), np.ptp(truth, axis=0) / bins

        def cell(state: np.ndarray, low: np.ndarray = low, width: np.ndarray = width) -> tuple[int, ...]:
            places = [math.floor(each) for each in (state - low) / width]
            top = state == truth.max(axis=0)
            return tuple(bins - 1 if at == bins and last else at for at, last in zip(places, top, strict=True))

        seen, made = (collections.Counter(map(cell, states)) for states in (truth, generated))
        expected = sum(
            count / 700 * math.log(count / 700 / ((made[at] + 1) / (550 + len(seen)))) for at, count in seen.items()
        )
        assert kept.divergence(generated) == pytest.approx(expected, rel=1e-12)
        assert state_space_divergence(generated, truth, bins=bins, method="histogram") == kept.divergence(generated)


@pytest.mark.parametrize("bad", [{"bins": 1}, {"method": "other"}])
def test_bad_divergences_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give at least 2 bins"):
        state_space_divergence(np.zeros((5, 1)), np.ones((5, 1)), **bad)


def test_power_spectra_are_compared_whatever_phase_and_size() -> None:
    times = np.arange(4096) * 2 * np.pi * 32 / 4096  # whole periods: nothing leaks
    truth = np.sin(times)[:, None]
    assert power_spectrum_distance(3.0 + 5.0 * np.sin(times + 1.0)[:, None], truth) < 0.02
    assert power_spectrum_distance(np.sin(3 * times)[:, None], truth) > 0.98
    both = (np.sin(times) + np.sin(3 * times))[:, None]  # half of its power is shared: sqrt(1 - sqrt(1/2))
    assert power_spectrum_distance(both, truth) == pytest.approx(math.sqrt(1 - math.sqrt(0.5)), abs=0.02)
    assert power_spectrum_distance(np.full_like(truth, np.inf), truth) == 1.0


def test_spectrum_error_is_the_worst_of_the_nearest() -> None:
    assert spectrum_error(np.array([1.0, 0.5j]), np.array([0.9, 0.5j, -3.0])) == pytest.approx(0.1)
    with pytest.raises(UsageError, match="empty"):
        spectrum_error(np.array([]), np.ones(2))


def autoregressive(samples: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    values = [0.0]
    for _ in range(samples - 1):
        values.append(0.8 * values[-1] + generator.standard_normal())
    return np.array(values)


def test_intervals_cover_as_often_as_they_say() -> None:
    model = fit(autoregressive(2000, 0), "var", dt=1.0, lags=1)
    intervals = calibrate(model, trajectories(autoregressive(8000, 1), 1.0), 3, 0.8)
    fresh = trajectories(autoregressive(20000, 2), 1.0).windows(4)[::4]
    held = intervals.holds(model.forecast(fresh[:, :1], 3), fresh[:, 1:])
    # two samples of 2667 and 5000 stretches: standard errors of 0.008 and 0.006
    np.testing.assert_allclose(held.mean(axis=(0, 2)), 0.8, atol=0.03)
    exact = 1.2816 * np.sqrt(np.cumsum(0.8 ** (2 * np.arange(3))))  # normal quantile, k steps of noise
    np.testing.assert_allclose(intervals.half_widths[:, 0], exact, rtol=0.06)
    low, high = intervals.around(np.zeros((3, 1)))
    np.testing.assert_array_equal(high, -low)


def test_coverages_that_data_cannot_support_are_refused() -> None:
    model = fit(autoregressive(200, 0), "var", dt=1.0, lags=1)
    with pytest.raises(TrajectoryError, match=r"at most 0\.9"):
        calibrate(model, trajectories(autoregressive(30, 1), 1.0), 2, 0.99)
    with pytest.raises(UsageError, match="no share"):
        calibrate(model, trajectories(autoregressive(30, 1), 1.0), 2, 1.0)
