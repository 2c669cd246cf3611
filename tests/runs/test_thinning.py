"""What stays of a run that has reached its size limit."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from separatrix.runs import Redactor, RunWriter, SeriesSpec, open_run
from separatrix.runs.thinning import kept_rows

LIMIT = 500_000


def writer(path: Path, max_bytes: int = LIMIT) -> RunWriter:
    return RunWriter(path, redactor=Redactor({}), max_bytes=max_bytes)


def size(path: Path) -> int:
    return (path / "run.sqlite").stat().st_size


@settings(max_examples=200, deadline=None)
@given(values=st.lists(st.floats(), min_size=1, max_size=100))
def test_of_every_stretch_the_extremes_stay_and_something_goes(values: list[float]) -> None:
    array = np.array(values)
    finite = np.isfinite(array)
    keep = kept_rows(np.where(finite, array, np.inf), np.where(finite, array, -np.inf), (~finite).astype(float))
    assert keep[0] and keep[-1]
    kept = array[keep]
    if finite.any():
        assert np.isin([array[finite].min(), array[finite].max()], kept).all()
    if not finite.all():
        assert keep[np.flatnonzero(~finite)[0]]
    # Of a full four at most three stay, beside the two ends.
    assert keep.sum() <= 2 + 3 * math.ceil(len(array) / 4)
    if len(array) >= 12:
        assert not keep.all()


def test_a_long_stream_stays_below_the_limit_and_keeps_what_matters(tmp_path: Path) -> None:
    run = writer(tmp_path / "r")
    loss, other = run.series(SeriesSpec("loss")), run.series(SeriesSpec("learning_rate"))
    random = np.random.default_rng(0)
    steps, special = 200_000, {123_456: 1e9, 134_567: -1e9, 150_001: math.nan, 150_002: math.inf}
    values = random.normal(size=steps)
    largest = 0
    for step in range(steps):
        run.scalar(loss, step, special.get(step, values[step]))
        if step % 20_000 == 0:
            run.scalar(other, step, float(step))
            run.flush()
            largest = max(largest, size(tmp_path / "r"))
    run.close()
    largest = max(largest, size(tmp_path / "r"))
    assert largest < 2 * LIMIT
    opened = open_run(tmp_path / "r")
    data = opened.series("loss")
    assert data.steps[0] == 0
    assert data.steps[-1] == steps - 1
    assert steps / 40 < len(data.steps) < steps / 2
    stored = dict(zip(data.steps.tolist(), data.values.tolist(), strict=True))
    assert stored[123_456] == 1e9
    assert stored[134_567] == -1e9
    assert math.isnan(stored[150_001])
    assert all(stored[step] == values[step] for step in stored if step not in special)
    assert opened.series("learning_rate").steps.tolist() == list(range(0, steps, 20_000))
    thinned = [event for event in opened.events if event.kind == "thinned"]
    assert len(thinned) >= 2
    assert sum(event.data["removed"] for event in thinned) == steps - len(data.steps)


def test_a_series_that_is_nan_to_its_end_is_thinned_too(tmp_path: Path) -> None:
    run = writer(tmp_path / "r", max_bytes=300_000)
    loss = run.series(SeriesSpec("loss"))
    for step in range(150_000):
        run.scalar(loss, step, 1.0 / (step + 1) if step < 1000 else math.nan)
        if step % 10_000 == 0:
            run.flush()
    run.close()
    assert size(tmp_path / "r") < 2 * 300_000
    data = open_run(tmp_path / "r").series("loss")
    assert data.steps[np.flatnonzero(np.isnan(data.values))[0]] == 1000


@pytest.mark.parametrize("form", ["whole", "pieces", "positions"])
def test_series_over_labels_are_thinned_within_their_pieces(tmp_path: Path, form: str) -> None:
    labels, steps, limit = 64, 4_000, 350_000
    run = writer(tmp_path / "r", max_bytes=limit)
    run.positions("parameter", [f"p{i}" for i in range(labels)])
    rms = run.series(SeriesSpec("rms", ("parameter",)))
    random = np.random.default_rng(1)
    values = random.normal(size=(steps, labels)).astype(np.float32)
    values[1700, 3] = 1e6
    values[2300, 40] = -1e6
    values[:, 9] = np.nan
    values[3001:, 17] = np.nan
    largest = 0
    for step in range(steps):
        if form == "whole":
            run.vector(rms, step, values[step])
        elif form == "pieces":
            for first in range(0, labels, 16):
                run.vector(rms, step, values[step, first : first + 16], first=first)
        else:
            where = random.permutation(labels)
            run.vector(rms, step, values[step, where], positions=where)
        if step % 200 == 0:
            run.flush()
            largest = max(largest, size(tmp_path / "r"))
    run.close()
    assert max(largest, size(tmp_path / "r")) < 3 * limit
    data = open_run(tmp_path / "r").series("rms")
    row = {step: index for index, step in enumerate(data.steps.tolist())}
    assert data.values[row[1700], 3] == 1e6
    assert data.values[row[2300], 40] == -1e6
    assert np.isnan(data.values[row[3001], 17])
    assert (data.steps[0], data.steps[-1]) == (0, steps - 1)
    assert steps / 60 < len(data.steps) < steps * (0.9 if form != "pieces" else 1.0)
    measured = ~np.isnan(data.values)
    assert np.array_equal(data.values[measured], values[data.steps][measured])


def test_after_thinning_the_value_written_last_at_a_step_still_counts(tmp_path: Path) -> None:
    run = writer(tmp_path / "r", max_bytes=200_000)
    loss = run.series(SeriesSpec("loss"))
    for generation in (0.0, 1.0):
        for step in range(30_000):
            run.scalar(loss, step, generation)
            if step % 5_000 == 0:
                run.flush()
    run.close()
    opened = open_run(tmp_path / "r")
    assert any(event.kind == "thinned" for event in opened.events)
    data = opened.series("loss")
    rewritten = data.values == 1.0
    assert rewritten.mean() > 0.3
    assert data.values[-1] == 1.0


def test_many_sparse_series_are_left_alone_though_the_limit_is_passed(tmp_path: Path) -> None:
    run = writer(tmp_path / "r", max_bytes=50_000)
    for number in range(2000):
        run.scalar(run.series(SeriesSpec(f"series {number}")), 0, 1.0)
    run.flush()
    run.flush()
    run.close()
    opened = open_run(tmp_path / "r")
    assert len(opened.names()) == 2000
    assert opened.events == ()
