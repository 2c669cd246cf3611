"""Exports, read by other tools and by ourselves."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import MakeRun

from separatrix.runs import MissingExtraError, RunExistsError, RunWriter, SeriesSpec, UsageError, open_run
from separatrix.runs.exporting import export_run
from separatrix.runs.importing import import_run

VALUES = [0.1, 1 / 3, 5e-324, -1e308, math.nan, math.inf, -math.inf, 0.0, -0.0]
TABLE = [[1.0, math.nan, 3.0], [math.nan, 0.1, math.inf]]


@pytest.fixture
def run_path(make_run: MakeRun) -> Path:
    labelled = {
        "gradient_rms": ("parameter", ['w, "q"', "b\nb", "<i>"], [1, 4], TABLE),
        "zero_share": ("module", ["a"], [2], [[0.5]]),
    }
    return make_run(scalars={"loss": VALUES, "my/metric": [1.0]}, labelled=labelled)


def two_optimizers(path: Path) -> Path:
    writer = RunWriter(path)
    for name, values in {"opt_g": [1.0, 2.0], "opt_d": [3.0, 4.0]}.items():
        series = writer.series(SeriesSpec("loss", labels={"optimizer": name}))
        for step, value in enumerate(values, start=1):
            writer.scalar(series, step, value)
    heads = writer.series(SeriesSpec("attention_entropy", dims=("module", "head")))
    writer.positions("module", ["one", "two"])
    writer.positions("head", ["0", "1", "2"])
    writer.vector(heads, 1, np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.close()
    return path


def test_csv_is_one_long_table(run_path: Path, tmp_path: Path) -> None:
    with open_run(run_path) as run:
        export_run(run, "csv", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["series", "step", "parameter", "module", "value"]
    gradients = [(row["step"], row["parameter"], row["value"]) for row in rows if row["series"] == "gradient_rms"]
    tenth = repr(float(np.float32(0.1)))
    assert gradients == [
        *(("1", 'w, "q"', "1.0"), ("1", "b\nb", "nan"), ("1", "<i>", "3.0")),
        *(("4", 'w, "q"', "nan"), ("4", "b\nb", tenth), ("4", "<i>", "inf")),
    ]
    assert [row["value"] for row in rows if row["series"] == "loss"] == [repr(value) for value in VALUES]


def test_csv_comes_back_bit_for_bit(run_path: Path, tmp_path: Path) -> None:
    with open_run(run_path) as run:
        result = import_run(export_run(run, "csv", tmp_path / "out.csv"), tmp_path / "back")
        back = open_run(result.path)
        assert back.names() == run.names()
        for name in run.names():
            before, after = run.series(name), back.series(name)
            assert after.steps.tolist() == before.steps.tolist()
            # Labels come back in the order in which they were first measured.
            assert {dim: sorted(labels) for dim, labels in after.coords.items()} == {
                dim: sorted(labels) for dim, labels in before.coords.items()
            }
            aligned = back[name].sel({dim: list(labels) for dim, labels in before.coords.items()})
            assert aligned.values.astype(float).tobytes() == before.values.astype(float).tobytes()


def test_csv_keeps_several_optimizers_and_two_dimensions(tmp_path: Path) -> None:
    run = open_run(two_optimizers(tmp_path / "run"))
    back = open_run(import_run(export_run(run, "csv", tmp_path / "out.csv"), tmp_path / "back").path)
    assert back["loss"].sel(optimizer="opt_d").values.tolist() == [3.0, 4.0]
    assert back["attention_entropy"].sel(module="two", head="1").values.tolist() == [4.0]


def test_parquet_is_read_by_others(run_path: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow reads what was written")
    with open_run(run_path) as run:
        table = parquet.read_table(export_run(run, "parquet", tmp_path / "out.parquet"))
    assert table.column_names == ["series", "step", "parameter", "module", "value"]
    rows = table.to_pylist()
    loss = np.array([row["value"] for row in rows if row["series"] == "loss"])
    assert loss.tobytes() == np.array(VALUES).tobytes()
    gradients = [(row["step"], row["parameter"], row["module"]) for row in rows if row["series"] == "gradient_rms"]
    assert gradients == [(step, label, None) for step in (1, 4) for label in ('w, "q"', "b\nb", "<i>")]


def test_tensorboard_is_read_by_tensorboard(run_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard reads what was written")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_run(run_path) as run:
        folder = export_run(run, "tensorboard", tmp_path / "out")
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    labels = ['gradient_rms/w, "q"', "gradient_rms/b\nb", "gradient_rms/<i>", "zero_share/a"]
    assert sorted(read.Tags()["scalars"]) == sorted(["loss", "my/metric", *labels])
    loss = read.Scalars("loss")
    assert [point.step for point in loss] == list(range(1, len(VALUES) + 1))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal([point.value for point in loss], np.array(VALUES).astype(np.float32))
    assert [(point.step, point.value) for point in read.Scalars("gradient_rms/<i>")] == [(1, 3.0), (4, math.inf)]


def test_tensorboard_comes_back(make_run: MakeRun, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with open_run(make_run(scalars={"loss": {5: 0.5, 10: 0.25}, "learning_rate": {5: 0.125}})) as run:
        back = open_run(import_run(export_run(run, "tensorboard", tmp_path / "out"), tmp_path / "back").path)
        for name in ("loss", "learning_rate"):
            np.testing.assert_array_equal(back.series(name).steps, run.series(name).steps)
            np.testing.assert_array_equal(back.series(name).values, run.series(name).values)


@pytest.mark.parametrize("kind", ["csv", "parquet", "tensorboard"])
def test_destinations(kind: str, make_run: MakeRun, tmp_path: Path) -> None:
    run = open_run(make_run(scalars={"loss": [1.0]}))
    (tmp_path / "empty").mkdir()
    inside = export_run(run, kind, tmp_path / "empty")
    assert inside.exists()
    assert [path for path in tmp_path.rglob(".*") if path.is_file()] == []
    assert (inside == tmp_path / "empty") == (kind == "tensorboard")
    assert export_run(run, kind, tmp_path / "new" / "deep").exists()
    (tmp_path / "taken").write_text("precious")
    for taken in (tmp_path / "taken", tmp_path / "empty"):
        with pytest.raises(RunExistsError, match="choose another destination"):
            export_run(run, kind, taken)
    assert (tmp_path / "taken").read_text() == "precious"


def test_an_unknown_format(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="csv, parquet, tensorboard"):
        export_run(open_run(make_run(scalars={"loss": [1.0]})), "xlsx", tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "package"), [("parquet", "pyarrow"), ("tensorboard", "tensorboard.summary.writer.record_writer")]
)
def test_a_missing_package_is_named(
    kind: str, package: str, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pip install separatrix\[{kind}\]"):
        export_run(open_run(make_run(scalars={"loss": [1.0]})), kind, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_a_failed_export_leaves_nothing(
    kind: str, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    run = open_run(make_run(scalars={"loss": [1.0]}))
    monkeypatch.setattr(f"separatrix.runs.exporting.{'table' if kind == 'csv' else kind}.rows", failing)
    with pytest.raises(OSError, match="No space"):
        export_run(run, kind, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_empty_run(make_run: MakeRun, tmp_path: Path) -> None:
    run = open_run(make_run())
    assert export_run(run, "csv", tmp_path / "out.csv").read_text() == "series,step,value\n"
    assert export_run(run, "tensorboard", tmp_path / "out").is_dir()
