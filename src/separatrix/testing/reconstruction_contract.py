"""The contract of a reconstructor: repeatable, shaped as declared, clear about bad input, right about a rotation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from separatrix.reconstruct import (
    Analysis,
    ForecastError,
    Reconstruction,
    Reconstructor,
    Trajectories,
    TrajectoryError,
    trajectories,
)
from separatrix.testing.fingerprints import surroundings
from separatrix.testing.settings_contract import check_settings

_ANGLE = 0.2
_SAMPLES = 240
_DT = 0.05
_BETTER = 0.5  # share of the error of repeating the last sample that a forecast of a rotation may have


def rotation(samples: int = _SAMPLES, angle: float = _ANGLE, phases: tuple[float, ...] = (0.0, 1.0)) -> Trajectories:
    """Trajectories of a rotation of the plane by `angle` a sample, one for each phase, around (3, -1)."""
    times = np.arange(samples) * angle
    parts = [np.stack([3 + 2 * np.cos(times + each), -1 + 2 * np.sin(times + each)], axis=1) for each in phases]
    return trajectories(parts, _DT, names=("x", "y"))


def check_reconstructor(reconstructor: Reconstructor, *, seed: int = 0) -> Reconstruction:
    """Fit a reconstructor with its quick settings to a rotation twice and hold it to the contract.

    It names a paper; bad settings are refused; equal seeds give equal forecasts, from generators of its own, and
    neither data nor model change by use; a batch is forecast as its members are; five steps ahead the error is at most
    half that of repeating the last sample; `analyse` returns an `Analysis` whose fields fit one another; bad histories,
    steps and too few samples are refused in one line.

    Raises:
        AssertionError: the contract is broken.
    """
    where = f"reconstructor {reconstructor.name}"
    assert reconstructor.papers and all(paper.title and paper.authors for paper in reconstructor.papers), where
    check_settings(reconstructor.settings, reconstructor.complete, where)
    data = rotation()
    copies = [part.copy() for part in data.parts]
    first = reconstructor.fit(data, reconstructor.quick, seed)
    before = surroundings()  # the first fit may import what leaves traces
    second = reconstructor.fit(data, reconstructor.quick, seed)
    history = data.values[:, 40:140]
    forecast = first.forecast(history, 5)
    analysis = first.analyse()
    assert surroundings() == before, f"{where} draws from global generators or changes a mode of torch"
    assert all(np.array_equal(a, b) for a, b in zip(copies, data.parts, strict=True)), f"{where} changes its data"
    assert forecast.shape == (2, 5, 2) and forecast.dtype == np.float64, f"{where} forecasts {forecast.shape}"
    assert np.array_equal(forecast, second.forecast(history, 5)), f"{where} does not repeat itself for equal seeds"
    assert np.array_equal(forecast, first.forecast(history, 5)), f"{where} changes while it forecasts"
    _check_batches(first, history, forecast, where)
    _check_rotation(forecast, data, where)
    _check_analysis(analysis, where)
    _check_refusals(first, history, where)
    _check_too_few(reconstructor, where)
    return first


def _check_batches(model: Reconstruction, history: np.ndarray, forecast: np.ndarray, where: str) -> None:
    assert (model.dt, model.names) == (_DT, ("x", "y")), f"{where} loses dt or names"
    assert model.history >= 1, f"{where} needs {model.history} past samples"
    single = model.forecast(history[1], 5)
    assert single.shape == (5, 2), f"{where} forecasts {single.shape} for one history"
    assert np.allclose(single, forecast[1], rtol=1e-6, atol=1e-6), f"{where}: a forecast depends on its batch"
    longer = model.forecast(history, 9)
    assert np.allclose(longer[:, :5], forecast, rtol=1e-6, atol=1e-6), f"{where}: a forecast depends on its length"


def _check_rotation(forecast: np.ndarray, data: Trajectories, where: str) -> None:
    truth, last = data.values[:, 140:145], data.values[:, 139:140]
    error, naive = (float(np.sqrt(np.mean((each - truth) ** 2))) for each in (forecast, last))
    assert error <= _BETTER * naive, f"{where}: error {error:.3g} on a rotation, repeating the last sample {naive:.3g}"


def _check_analysis(analysis: Analysis, where: str) -> None:
    assert isinstance(analysis, Analysis), f"{where} analyses into {type(analysis)}"
    if analysis.residuals is not None:
        assert analysis.eigenvalues is not None, f"{where} has residuals without eigenvalues"
        assert analysis.residuals.shape == analysis.eigenvalues.shape, f"{where}: residuals do not fit eigenvalues"
        assert (analysis.residuals >= 0).all(), f"{where} has negative residuals"
    if analysis.eigenvalues is not None:
        sizes = np.abs(analysis.eigenvalues)
        assert (np.diff(sizes) <= 1e-9 * sizes[:-1]).all(), f"{where}: eigenvalues do not fall in size"
    if analysis.exponents is not None:
        assert (np.diff(analysis.exponents) <= 1e-12).all(), f"{where}: exponents do not fall"
        assert analysis.exponents[0] < 1.0, f"{where} finds the exponent {analysis.exponents[0]} in a rotation"
    for cycle in (*(analysis.fixed_points or ()), *(analysis.cycles or ())):
        assert cycle.points.shape[1] == 2 and np.isfinite(cycle.points).all(), f"{where}: a cycle is {cycle.points}"
    json.dumps({name: np.asarray(value).tolist() for name, value in _plain(analysis.codes).items()})


def _plain(codes: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in codes.items() if isinstance(value, int | float | str | np.ndarray)}


def _check_refusals(model: Reconstruction, history: np.ndarray, where: str) -> None:
    gap = history.copy()
    gap[0, -1, 0] = np.nan
    bad: list[tuple[np.ndarray, Any]] = [(history, 0), (history, 2.5), (history, True), (gap, 3)]
    bad += [(history[..., :1], 3), (history[0, 0], 3), (history[:, :0], 3), (history[:, : model.history - 1], 3)]
    bad += [] if model.horizon is None else [(history, model.horizon + 1)]
    for past, steps in bad:
        try:
            model.forecast(past, steps)
        except ForecastError as error:
            assert "\n" not in str(error) and ":" in str(error), f"{where}: unclear refusal: {error}"
        else:
            raise AssertionError(f"{where} forecasts {steps!r} steps from a history of shape {past.shape}")


def _check_too_few(reconstructor: Reconstructor, where: str) -> None:
    try:
        reconstructor.fit(rotation(2, phases=(0.0,)), reconstructor.quick).forecast(rotation(2).parts[0], 1)
    except (TrajectoryError, ForecastError) as error:
        assert "\n" not in str(error) and ":" in str(error), f"{where}: unclear refusal: {error}"
