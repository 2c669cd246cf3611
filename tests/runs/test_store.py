"""Round trips through the store, against plain dictionaries as the oracle."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import MakeRun

from separatrix.runs import Redactor, RunWriter, SeriesSpec, Status, UnknownSeriesError, UsageError, open_run

_FOLDERS = itertools.count()


def writer(path: Path, **options: object) -> RunWriter:
    return RunWriter(path, redactor=Redactor({}), **options)  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(
    batches=st.lists(
        st.lists(st.tuples(st.integers(-5, 60), st.floats(width=64)), min_size=1, max_size=30), min_size=1, max_size=4
    )
)
def test_scalars_come_back_bit_by_bit_and_the_last_write_at_a_step_wins(
    batches: list[list[tuple[int, float]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("store") / str(next(_FOLDERS))
    expected: dict[int, float] = {}
    run = writer(path)
    series = run.series(SeriesSpec("loss"))
    for batch in batches:
        for step, value in batch:
            run.scalar(series, step, value)
            expected[step] = value
        run.flush()
    run.close()
    data = open_run(path).series("loss")
    assert data.steps.tolist() == sorted(expected)
    assert data.values.dtype == np.float64
    oracle = np.array([expected[step] for step in sorted(expected)])
    assert np.array_equal(data.values, oracle, equal_nan=True)
    finite = ~np.isnan(oracle)
    assert np.array_equal(np.signbit(data.values[finite]), np.signbit(oracle[finite]))


@settings(max_examples=25, deadline=None)
@given(
    pieces=st.lists(
        st.tuples(
            st.integers(0, 6),
            st.booleans(),
            st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True),
            st.floats(width=32),
        ),
        min_size=1,
        max_size=25,
    )
)
def test_overlapping_pieces_over_labels_match_a_cell_by_cell_oracle(
    pieces: list[tuple[int, bool, list[int], float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("store") / str(next(_FOLDERS))
    cells: dict[tuple[int, int], float] = {}
    run = writer(path)
    run.positions("parameter", [f"p{i}" for i in range(8)])
    series = run.series(SeriesSpec("gradient_rms", ("parameter",)))
    for number, (step, contiguous, positions, base) in enumerate(pieces):
        values = np.float32(base) + np.arange(len(positions), dtype=np.float32) + np.float32(number)
        if contiguous:
            first = min(positions[0], 8 - len(positions))
            run.vector(series, step, values, first=first)
            positions = list(range(first, first + len(positions)))
        else:
            run.vector(series, step, values, positions=np.array(positions))
        cells.update({(step, position): value for position, value in zip(positions, values, strict=True)})
    run.close()
    data = open_run(path).series("gradient_rms")
    steps = sorted({step for step, _ in cells})
    measured = sorted({position for _, position in cells})
    assert data.steps.tolist() == steps
    assert data.coords == {"parameter": tuple(f"p{i}" for i in measured)}
    oracle = np.full((len(steps), len(measured)), np.nan, np.float32)
    for (step, position), value in cells.items():
        oracle[steps.index(step), measured.index(position)] = value
    assert np.array_equal(data.values, oracle, equal_nan=True)
    expected = [[(step, position) in cells for position in measured] for step in steps]
    assert data.measured.tolist() == expected


def test_a_label_measured_only_as_nan_stays_and_one_never_measured_goes(tmp_path: Path) -> None:
    run = writer(tmp_path / "r")
    run.positions("parameter", ["a", "b", "c"])
    series = run.series(SeriesSpec("gradient_rms", ("parameter",)))
    for step in range(3):
        run.vector(series, step, np.array([1.0, math.nan], np.float32))
    run.close()
    data = open_run(tmp_path / "r")["gradient_rms"]
    assert data.parameter.values.tolist() == ["a", "b"]
    assert np.isnan(data.sel(parameter="b")).all()
    assert (data.sel(parameter="a") == 1).all()


def test_three_dimensions_of_labels_come_back_where_they_belong(tmp_path: Path) -> None:
    run = writer(tmp_path / "r")
    run.positions("layer", ["l0", "l1", "l2"])
    run.positions("head", ["h0", "h1"])
    run.positions("mode", ["m0", "m1", "m2", "m3"])
    series = run.series(SeriesSpec("spectrum", ("layer", "head", "mode"), dtype="float64"))
    whole = np.arange(24.0).reshape(3, 2, 4)
    run.vector(series, 0, whole)
    run.vector(series, 1, whole[[2, 0], :1, :3], positions=np.array([2, 0]))
    run.close()
    data = open_run(tmp_path / "r")["spectrum"]
    assert data.dims == ("step", "layer", "head", "mode")
    assert np.array_equal(data.sel(step=0).values, whole)
    assert data.sel(step=1, layer="l2", head="h0").values[:3].tolist() == whole[2, 0, :3].tolist()
    assert data.sel(step=1, layer="l0", head="h0").values[:3].tolist() == whole[0, 0, :3].tolist()
    assert np.isnan(data.sel(step=1, layer="l1")).all()
    assert np.isnan(data.sel(step=1, head="h1")).all()
    assert np.isnan(data.sel(step=1, mode="m3")).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64", "uint8"])
def test_every_number_type_round_trips(tmp_path: Path, dtype: str) -> None:
    run = writer(tmp_path / "r")
    run.positions("class", ["x", "y"])
    series = run.series(SeriesSpec("count", ("class",), dtype=dtype))
    run.vector(series, 4, np.array([3, 100], dtype))
    run.close()
    assert open_run(tmp_path / "r")["count"].values.tolist() == [[3.0, 100.0]]


def test_series_that_differ_in_a_label_become_one_array_though_their_parameters_differ(tmp_path: Path) -> None:
    run = writer(tmp_path / "r")
    run.positions("group", ["0", "1", "2"])
    generator = run.series(SeriesSpec("learning_rate", ("group",), labels={"optimizer": "g"}))
    critic = run.series(SeriesSpec("learning_rate", ("group",), labels={"optimizer": "d"}))
    run.vector(generator, 0, np.array([0.5], np.float32), first=2)
    run.vector(critic, 3, np.array([0.25, 0.125], np.float32), first=0)
    run.close()
    data = open_run(tmp_path / "r")["learning_rate"]
    assert data.dims == ("step", "optimizer", "group")
    assert data.sel(optimizer="g", step=0, group="2").item() == 0.5
    assert data.sel(optimizer="d", step=3).values[:2].tolist() == [0.25, 0.125]
    assert int(data.notnull().sum()) == 3


def test_steps_uneven_and_beyond_thirty_two_bits_are_exact(tmp_path: Path) -> None:
    steps = [0, 1, 2, 10, 11, 2**40, 2**40 + 1, 2**61]
    run = writer(tmp_path / "r")
    series = run.series(SeriesSpec("loss"))
    for step in steps:
        run.scalar(series, step, float(step % 7))
    run.close()
    data = open_run(tmp_path / "r").series("loss")
    assert data.steps.tolist() == steps
    assert data.values.tolist() == [float(step % 7) for step in steps]


def test_sql_sees_the_same_numbers_and_writes_nothing(tmp_path: Path) -> None:
    run = writer(tmp_path / "r")
    loss = run.series(SeriesSpec("loss"))
    rms = run.series(SeriesSpec("weight_rms", ("parameter",)))
    run.positions("parameter", ["a.weight", "b.weight"])
    for step in (0, 1, 5):
        run.scalar(loss, step, 1 / 3 + step)
        run.vector(rms, step, np.array([step], np.float32), first=1)
    run.close()
    opened = open_run(tmp_path / "r")
    rows = opened.sql("SELECT step, value FROM scalars WHERE name='loss' ORDER BY step")
    assert rows == [(0, 1 / 3), (1, 1 / 3 + 1), (5, 1 / 3 + 5)]
    query = (
        "SELECT step, label_value(?, series, first, positions, data) FROM arrays WHERE name='weight_rms' ORDER BY step"
    )
    assert opened.sql(query, ("b.weight",)) == [(0, 0.0), (1, 1.0), (5, 5.0)]
    assert opened.sql(query, ("a.weight",)) == [(0, None), (1, None), (5, None)]
    for forbidden in (
        "DELETE FROM events",
        "CREATE TABLE x(a)",
        f"ATTACH '{tmp_path / 'other.sqlite'}' AS other",
        "PRAGMA writable_schema=ON",
        "SELECT load_extension('x')",
        "SELECT 1; SELECT 2",
        "nonsense",
    ):
        with pytest.raises(UsageError) as caught:
            opened.sql(forbidden)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "other.sqlite").exists()


def test_pandas_and_html_and_unknown_names(tmp_path: Path) -> None:
    run = writer(tmp_path / "r")
    run.scalar(run.series(SeriesSpec("<b>loss</b>")), 0, 1.5)
    run.close()
    opened = open_run(tmp_path / "r")
    assert opened.to_pandas().to_dict("records") == [{"series": "<b>loss</b>", "step": 0, "value": 1.5}]
    assert "<b>loss</b>" not in opened._repr_html_()
    assert "&lt;b&gt;loss" in opened._repr_html_()
    with pytest.raises(UnknownSeriesError, match="loss"):
        opened["losss"]


def test_a_live_run_is_read_as_of_now(tmp_path: Path) -> None:
    run = writer(tmp_path / "r")
    opened = open_run(tmp_path / "r")
    assert (opened.status, opened.names(), dict(opened.config)) == (Status.RUNNING, (), {})
    loss = run.series(SeriesSpec("loss"))
    run.scalar(loss, 0, 1.0)
    run.meta("config", {"lr": 0.1})
    run.flush()
    assert opened.names() == ("loss",)
    assert opened.config == {"lr": 0.1}
    run.positions("parameter", ["a"])
    run.vector(run.series(SeriesSpec("weight_rms", ("parameter",))), 0, np.ones(1, np.float32))
    run.scalar(loss, 1, 2.0)
    run.meta("config", {"lr": 0.2})
    run.flush()
    assert opened.names() == ("loss", "weight_rms")
    assert opened.series("loss").values.tolist() == [1.0, 2.0]
    assert opened.config == {"lr": 0.2}
    run.close(Status.CRASHED, "Traceback: boom")
    assert (opened.status, opened.traceback) == (Status.CRASHED, "Traceback: boom")
    assert not list((tmp_path / "r").glob("run.sqlite-*"))


def test_an_open_finished_run_sees_what_a_resumed_recording_adds(tmp_path: Path) -> None:
    run = writer(tmp_path / "r")
    run.scalar(run.series(SeriesSpec("loss")), 0, 1.0)
    run.close()
    opened = open_run(tmp_path / "r")
    assert len(opened.series("loss").steps) == 1
    run = writer(tmp_path / "r", resume=True)
    run.scalar(run.series(SeriesSpec("loss")), 1, 1.0)
    run.flush()
    assert opened.status is Status.RUNNING
    assert len(opened.series("loss").steps) == 2
    run.close()
    assert opened.status is Status.FINISHED
    assert len(opened.series("loss").steps) == 2


@pytest.mark.parametrize(("begin", "overlap", "gap"), [(7, 3, 0), (10, 0, 0), (15, 0, 5)])
def test_a_resumed_run_says_overlap_and_gap(tmp_path: Path, begin: int, overlap: int, gap: int) -> None:
    run = writer(tmp_path / "r")
    loss = run.series(SeriesSpec("loss"))
    for step in range(10):
        run.scalar(loss, step, 1.0)
    run.close(Status.INTERRUPTED)
    run = writer(tmp_path / "r", resume=True)
    assert (run.segment, run.last_recorded_step()) == (1, 9)
    assert run.series(SeriesSpec("loss")) == loss
    for step in range(begin, begin + 5):
        run.scalar(loss, step, 2.0)
    run.close()
    opened = open_run(tmp_path / "r")
    (event,) = (event for event in opened.events if event.kind == "resumed")
    assert event.step == begin
    assert event.data == {"previous_last_step": 9, "first_step": begin, "overlap": overlap, "gap": gap}
    first, second = opened.segments
    assert (first.status, first.first_step, first.last_step) == (Status.INTERRUPTED, 0, 9)
    assert (second.status, second.first_step, second.last_step) == (Status.FINISHED, begin, begin + 4)
    data = opened.series("loss")
    assert data.steps.tolist() == sorted({*range(10), *range(begin, begin + 5)})
    assert data.values.tolist() == [2.0 if begin <= step < begin + 5 else 1.0 for step in data.steps]


def test_an_earlier_segment_that_never_ended_reads_as_killed_while_the_next_one_runs(tmp_path: Path) -> None:
    run = writer(tmp_path / "r")
    run.flush()
    run._database.connection.execute("UPDATE segments SET hostname='elsewhere'")
    run._lock.release()
    second = writer(tmp_path / "r", resume=True)
    assert [segment.status for segment in open_run(tmp_path / "r").segments] == [Status.KILLED, Status.RUNNING]
    second.close()


def test_ten_thousand_steps_of_many_rows_are_read_as_written(tmp_path: Path) -> None:
    run = writer(tmp_path / "r")
    ids = [run.series(SeriesSpec(f"s{i}")) for i in range(10)]
    for step in range(10_000):
        for i, series in enumerate(ids):
            run.scalar(series, step, step * 10.0 + i)
    run.close()
    opened = open_run(tmp_path / "r")
    for i in range(10):
        data = opened.series(f"s{i}")
        assert np.array_equal(data.steps, np.arange(10_000))
        assert np.array_equal(data.values, np.arange(10_000) * 10.0 + i)


def test_equal_specs_are_one_key_and_labels_tell_them_apart(make_run: MakeRun) -> None:
    specs = [SeriesSpec("loss", labels={"optimizer": name}) for name in ("opt_g", "opt_d")]
    assert specs[0] != specs[1]
    assert {specs[0]: 1, SeriesSpec("loss", labels={"optimizer": "opt_g"}): 2} == {specs[0]: 2}
    data = open_run(make_run(scalars={specs[0]: [1.0, 2.0], specs[1]: {2: 3.0}})).series("loss")
    assert data.coords == {"optimizer": ("opt_g", "opt_d")}
    assert np.array_equal(data.values, [[1.0, math.nan], [2.0, 3.0]], equal_nan=True)
    assert data.measured.tolist() == [[True, False], [True, True]]
