"""Trajectories from whatever holds them, and clear refusals of what is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray

from separatrix import systems
from separatrix.reconstruct import Scaling, TrajectoryError, trajectories
from separatrix.runs import open_run

TIMES = np.arange(6) * 0.5
VALUES = np.stack([np.sin(TIMES), np.cos(TIMES), TIMES], axis=1)


def test_arrays_of_every_shape() -> None:
    assert trajectories(VALUES[:, 0], 0.5).values.shape == (1, 6, 1)
    assert trajectories(VALUES, 0.5).values.shape == (1, 6, 3)
    both = trajectories([VALUES, VALUES[:4]], 0.5)
    assert both.lengths == (6, 4)
    assert both.names == ("x0", "x1", "x2")
    assert trajectories(np.stack([VALUES, VALUES]), 0.5).values.shape == (2, 6, 3)
    with pytest.raises(TrajectoryError, match="lengths 6, 4"):
        _ = both.values


def test_windows_never_reach_across_trajectories() -> None:
    data = trajectories([np.arange(5.0), 10.0 + np.arange(3)], 1.0)
    windows = data.windows(3)[..., 0]
    np.testing.assert_array_equal(windows, [[0, 1, 2], [1, 2, 3], [2, 3, 4], [10, 11, 12]])
    assert len(data.windows(5)) == 1
    with pytest.raises(TrajectoryError, match="longest trajectory has 5 samples and 6 are needed"):
        data.windows(6)


def test_data_are_copied() -> None:
    given = VALUES.copy()
    data = trajectories(given, 0.5)
    given[:] = 0.0
    np.testing.assert_array_equal(data.parts[0], VALUES)


def test_labelled_arrays_bring_names_and_interval() -> None:
    labelled = xarray.DataArray(
        VALUES.T, dims=("variable", "time"), coords={"time": TIMES, "variable": ["x", "y", "z"]}
    )
    data = trajectories(labelled)
    assert data.dt == 0.5
    assert data.names == ("x", "y", "z")
    np.testing.assert_array_equal(data.parts[0], VALUES)
    single = xarray.DataArray(VALUES[:, 0], dims=("step",), name="loss")
    assert trajectories(single, 2.0).names == ("loss",)
    several = xarray.DataArray(np.stack([VALUES, VALUES]), dims=("trajectory", "time", "variable"))
    assert trajectories(several, 0.5).values.shape == (2, 6, 3)
    stamps = np.array("2020-01-01", dtype="datetime64[s]") + np.arange(6) * np.timedelta64(60, "s")
    assert trajectories(xarray.DataArray(VALUES[:, 0], dims=("time",), coords={"time": stamps})).dt == 60.0


def test_runs_bring_steps_and_labels(make_run: Callable[..., Path]) -> None:
    steps = {10 * index: float(value) for index, value in enumerate(VALUES[:, 0])}
    run = open_run(make_run("a", scalars={"loss": steps, "accuracy": {1: 0.0, 2: 1.0}}))
    data = trajectories(run, names=("loss",))
    assert data.dt == 10.0
    np.testing.assert_allclose(data.parts[0][:, 0], VALUES[:, 0], rtol=1e-6)
    with pytest.raises(TrajectoryError, match="different steps"):
        trajectories(run)
    with pytest.raises(TrajectoryError, match="contradicts"):
        trajectories(run, 1.0, names=("loss",))
    table = ("parameter", ["a", "b", "c"], list(range(6)), VALUES)
    run = open_run(make_run("b", labelled={"weight_rms": table}, meta={"config": {"dt": 0.5}}))
    data = trajectories(run)
    assert (data.dt, data.names) == (0.5, ("a", "b", "c"))
    np.testing.assert_allclose(data.parts[0], VALUES, rtol=1e-6)


@pytest.mark.parametrize("copies", [1, 3])
def test_simulations_and_their_runs_are_the_same(tmp_path: Path, copies: int) -> None:
    found = systems.simulate(systems.find_system("Lorenz"), 30, dt=0.02, copies=copies)
    data = trajectories(found)
    read = trajectories(open_run(systems.write(found, tmp_path / "run")))
    assert data.names == read.names == found.variables
    assert data.dt == read.dt == 0.02
    np.testing.assert_array_equal(data.values, found.values)
    np.testing.assert_array_equal(read.values, found.values)
    with pytest.raises(TrajectoryError, match="contradicts"):
        trajectories(found, 0.01)


def test_runs_with_gaps_are_refused(make_run: Callable[..., Path]) -> None:
    run = open_run(make_run("a", scalars={"loss": {0: 1.0, 1: 2.0, 2: 3.0, 4: 1.0, 5: 2.0}}))
    with pytest.raises(TrajectoryError, match="step goes from 2 to 4"):
        trajectories(run)


@pytest.mark.parametrize(
    ("data", "dt", "part"),
    [
        (VALUES, None, "give dt"),
        (VALUES, 0.0, "no positive time"),
        (VALUES, -1.0, "no positive time"),
        (VALUES, np.nan, "no positive time"),
        (VALUES[:1], 0.5, "at least two"),
        ([VALUES, VALUES[:1]], 0.5, "trajectory 1 has 1 samples"),
        (np.where(VALUES[3, 1] == VALUES, np.nan, VALUES), 0.5, "x1 of trajectory 0 is nan at sample 3"),
        (np.where(VALUES[3, 1] == VALUES, np.inf, VALUES), 0.5, "is inf"),
        ([VALUES, VALUES[:, :2]], 0.5, "3, 2 variables"),
        (np.zeros((2, 2, 2, 2)), 0.5, "shapes"),
        (3.0, 0.5, "shapes"),
        ([], 0.5, "at least two"),
        ("text", 0.5, "no numbers"),
        (VALUES[:, :0], 0.5, "shapes"),
    ],
)
def test_what_is_no_trajectory_is_refused(data: Any, dt: float | None, part: str) -> None:
    with pytest.raises(TrajectoryError, match=part) as caught:
        trajectories(data, dt)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("time", [3, 0])
def test_gaps_in_labelled_arrays_are_refused(time: int) -> None:
    times = TIMES.copy()
    times[time:] += 0.25 if time else 0.0
    labelled = xarray.DataArray(VALUES[:, 0], dims=("time",), coords={"time": times})
    if not time:
        assert trajectories(labelled, 0.5).dt == 0.5
        with pytest.raises(TrajectoryError, match=r"dt=0\.25 contradicts the data's own 0\.5"):
            trajectories(labelled, 0.25)
        return
    with pytest.raises(TrajectoryError, match=r"time goes from 1 to 1\.75 where it mostly advances by 0\.5"):
        trajectories(labelled)


def test_labelled_arrays_without_time_are_refused() -> None:
    with pytest.raises(TrajectoryError, match="needs time"):
        trajectories(xarray.DataArray(VALUES, dims=("space", "variable")), 0.5)
    with pytest.raises(TrajectoryError, match="at most one"):
        trajectories(xarray.DataArray(np.zeros((4, 2, 2)), dims=("time", "a", "b")), 0.5)


@pytest.mark.parametrize("names", [("x",), ("x", "x", "y")])
def test_names_that_do_not_fit_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(TrajectoryError, match="give each one its own"):
        trajectories(VALUES, 0.5, names=names)


def test_a_constant_variable_is_kept_with_a_warning() -> None:
    with pytest.warns(RuntimeWarning, match="x1 never changes"):
        data = trajectories(np.stack([TIMES, np.full(6, 7.0)], axis=1), 0.5)
    scaling = Scaling.of(data)
    scaled = scaling.scaled(data.points)
    np.testing.assert_array_equal(scaled[:, 1], 0.0)
    np.testing.assert_allclose(scaled[:, 0].std(), 1.0)
    np.testing.assert_allclose(scaling.restored(scaled), data.points)
