"""The echo-state network: its derivative by differences, its memory, and a chaotic map."""

from __future__ import annotations

import numpy as np
import pytest
from tests.reconstruct.test_autoregression import henon

from separatrix.reconstruct import TrajectoryError, fit, trajectories
from separatrix.reconstruct.scores import valid_times


def test_the_derivative_is_that_of_the_step() -> None:
    model = fit(henon(500), "echo-state", dt=1.0, units=12, warm_up=20, leak=0.7).model
    state = model.last[None]
    slope, step = model.slope(state)[0], 1e-6
    for column in range(state.shape[1]):
        shift = np.eye(state.shape[1])[column] * step
        numeric = (model.step(state + shift) - model.step(state - shift))[0] / (2 * step)
        np.testing.assert_allclose(slope[:, column], numeric, atol=1e-7)


def test_the_reservoir_has_the_radius_that_was_asked_for() -> None:
    for units in (40, 520):
        model = fit(henon(900), "echo-state", dt=1.0, units=units, warm_up=20, radius=0.37).model
        assert np.abs(np.linalg.eigvals(model.recurrent)).max() == pytest.approx(0.37, rel=1e-6)


def test_the_henon_map_is_forecast_and_has_its_exponent() -> None:
    values = henon(4000)
    model = fit(values[:2000], "echo-state", dt=1.0, units=150, warm_up=50)
    windows = trajectories(values[2000:], 1.0).windows(80)[::40]
    forecast = model.forecast(windows[:, :60], 20)
    assert np.median(np.abs(forecast[:, 0] - windows[:, 60])) < 1e-4
    times = valid_times(forecast, windows[:, 60:], 1.0, 0.419, values.std(axis=0))
    assert np.median(times) > 4.0
    assert abs(model.analyse().exponents[0] - 0.419) < 0.03  # 1000 steps: a standard error of about 0.015


def test_the_past_beyond_the_warm_up_is_forgotten() -> None:
    values = henon(1500)
    model = fit(values[:1000], "echo-state", dt=1.0, units=60, warm_up=60)
    short, long = model.forecast(values[1100:1160], 3), model.forecast(values[1000:1160], 3)
    np.testing.assert_allclose(short, long, atol=1e-6)


def test_seeds_differ_and_short_trajectories_are_refused() -> None:
    data = trajectories(henon(400), 1.0)
    one, other = (fit(data, "echo-state", seed=seed, units=20, warm_up=20).forecast(data.points, 1) for seed in (0, 1))
    assert not np.array_equal(one, other)
    with pytest.raises(TrajectoryError, match="302 are needed"):
        fit(trajectories(henon(400)[:200], 1.0), "echo-state", warm_up=300)
