"""What a sweep judges trials by: numbers from series, points for pruners, reasons to stop, results of studies."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import MakeRun

from separatrix.runs import open_run
from separatrix.steer.tuning import Metric, SweepError
from separatrix.steer.tuning.objective import RunReading, StudyReading


def test_texts() -> None:
    assert Metric.parse("loss") == Metric("loss", "last")
    assert Metric.parse("eval_loss:min") == Metric("eval_loss", "min")
    assert [Metric.parse(text).direction for text in ("loss", "eval_accuracy", "x:max", "x:min")] == [
        *("minimize", "maximize", "maximize", "minimize")
    ]
    for text in ("", ":min", "loss:mean", "loss:"):
        with pytest.raises(SweepError, match="is no metric"):
            Metric.parse(text)


@pytest.mark.parametrize("count", [1, 3, 39, 40, 400])
def test_values_are_means_over_a_twentieth(count: int, make_run: MakeRun) -> None:
    values = np.random.default_rng(0).normal(size=count).tolist()
    width = max(1, count // 20)
    means = [float(np.mean(np.float32(values[i : i + width]).astype(float))) for i in range(count - width + 1)]
    with open_run(make_run(scalars={"loss": values})) as run:
        assert Metric("loss").value(run) == pytest.approx(means[-1], abs=1e-6)
        assert Metric("loss", "min").value(run) == pytest.approx(min(means), abs=1e-6)
        assert Metric("loss", "max").value(run) == pytest.approx(max(means), abs=1e-6)


@pytest.mark.parametrize(("first", "rest", "count"), [(1e17, 0.3, 21), (1e12, 1e-3, 199), (1e30, 1e-7, 417)])
def test_a_large_first_value_leaves_later_means_their_digits(
    first: float, rest: float, count: int, make_run: MakeRun
) -> None:
    values = np.append(first, rest * np.random.default_rng(0).uniform(1.0, 2.0, count - 1)).astype(np.float32)
    width = max(1, count // 20)
    exact = [math.fsum(values[i : i + width].tolist()) / width for i in range(count - width + 1)]
    with open_run(make_run(scalars={"loss": values.tolist()})) as run:
        for reduction, expected in (("last", exact[-1]), ("min", min(exact)), ("max", max(exact))):
            assert Metric("loss", reduction).value(run) == pytest.approx(expected, rel=1e-6)


def test_values_that_are_not_finite(make_run: MakeRun) -> None:
    with open_run(make_run(scalars={"loss": [3.0, 1.0, math.nan], "eval_loss": [math.inf]})) as run:
        assert math.isnan(Metric("loss").value(run))
        assert Metric("loss", "min").value(run) == 1.0
        assert math.isnan(Metric("eval_loss", "min").value(run))
        with pytest.raises(SweepError, match="holds no accuracy"):
            Metric("accuracy").value(run)


def test_a_series_over_labels_is_no_metric(make_run: MakeRun) -> None:
    labelled = {"gradient_rms": ("parameter", ["w"], [1], [[0.1]])}
    with open_run(make_run(labelled=labelled)) as run, pytest.raises(SweepError, match="a value for each parameter"):
        Metric("gradient_rms").value(run)


def test_points_are_evaluations_or_means_at_common_steps(make_run: MakeRun) -> None:
    losses = [float(step) for step in range(1, 31)]
    with open_run(make_run(scalars={"loss": losses, "eval_loss": {7: 0.5, 21: 0.25}})) as run:
        assert Metric("eval_loss").points(run) == ((1, 0.5), (2, 0.25))
        assert Metric("loss").points(run) == ((10, 5.5), (14, 12.5), (20, 17.5), (28, 24.5))
        assert Metric("accuracy").points(run) == ()


def test_a_finding_stops_when_it_lasts(make_run: MakeRun, tmp_path: Path) -> None:
    rising = [1.2**step for step in range(60)]
    reading = RunReading(str(tmp_path / "run"), Metric("loss"), ("diverging", "nonfinite"))
    assert reading.live().step == 0, "there is no run yet"
    make_run(scalars={"loss": rising[:19]})
    assert reading.live().stop == "", "the first steps say little"
    path = make_run("longer", scalars={"loss": rising[:30]})
    reading.path = str(path)
    assert reading.live().stop == "", "seen once"
    assert reading.live().stop == "", "seen at the same step"
    reading.path = str(make_run("longest", scalars={"loss": rising[:40]}))
    assert reading.live().stop.startswith("diverging at step 40: The loss rose from")


def test_a_rise_that_passes_stops_nothing(make_run: MakeRun) -> None:
    losses = [1.0] * 15 + [9.0] * 10 + [0.1] * 40
    reading = RunReading(str(make_run("a", scalars={"loss": losses[:25]})), Metric("loss"), ("diverging",))
    reading.live()
    assert reading._seen == {"diverging"}
    reading.path = str(make_run("b", scalars={"loss": losses}))
    assert reading.live().stop == ""


def test_verdicts(make_run: MakeRun, tmp_path: Path) -> None:
    reading = RunReading(str(make_run(scalars={"loss": [1.0, 0.5]})), Metric("loss"))
    assert reading.final(0, "").value == 0.5
    failed = reading.final(3, "no such file")
    assert (failed.value, failed.problem, failed.failed) == (None, "ended with 3: no such file", True)
    empty = RunReading(str(make_run("empty")), Metric("loss"))
    with pytest.raises(SweepError, match="is empty"):
        empty.final(0, "")
    with pytest.raises(SweepError, match="no finding"):
        RunReading("x", Metric("loss"), ("no-such",))


def test_results_of_studies(tmp_path: Path) -> None:
    claims = [
        {"name": "a", "measured": [1.0, 3.0], "passed": True},
        {"name": "b", "measured": None, "passed": False},
    ]
    controls = [{"name": "c", "measured": 1.0, "passed": False}, {"name": "d", "measured": 1.0, "passed": True}]
    (tmp_path / "7-x-seed0.json").write_text(json.dumps({"claims": claims, "controls": controls}))
    folder = str(tmp_path)
    verdict = StudyReading(folder, "passed").final(1, "")
    assert (verdict.value, verdict.findings) == (0.5, ("b", "d"))
    assert StudyReading(folder, "a").final(0, "").value == 2.0
    assert StudyReading(folder, "b").final(1, "").problem == "b is nan"
    with pytest.raises(SweepError, match="no claim z: choose passed, a, b"):
        StudyReading(folder, "z").final(0, "")
    assert StudyReading(folder, "a").final(2, "error: x").problem == "ended with 2: error: x"
    assert StudyReading(str(tmp_path / "none"), "a").final(0, "").failed
