"""A value that was NaN is kept everywhere; a label that has no value at a step has no row anywhere."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from separatrix.runs import Run, RunWriter, SeriesSpec, open_run
from separatrix.runs.exporting import export_run
from separatrix.runs.importing import import_run

NAN = math.nan
NAMES = ("a", "b", "c")
PLANTED = {(1, "a"): 1.0, (1, "b"): NAN, (2, "b"): NAN, (2, "c"): 3.0, (4, "a"): NAN, (7, "b"): 0.5, (7, "c"): NAN}
HEADS = {(1, "a", "0"): NAN, (1, "a", "1"): 2.0, (3, "b", "0"): 4.0, (3, "b", "1"): NAN}
LOSSES = {(1, "opt_g"): NAN, (2, "opt_d"): 5.0, (3, "opt_g"): 6.0, (3, "opt_d"): NAN}
SCALARS = {(1,): NAN, (2,): 1.0, (9,): NAN}

Cells = Mapping[tuple[int | str, ...], float]
ALL: dict[str, Cells] = {"loss": LOSSES, "rms": PLANTED, "entropy": HEADS, "accuracy": SCALARS}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Every cell of `ALL`, written where it belongs: pieces with a first position, with positions, and of two kinds."""
    writer = RunWriter(tmp_path / "run")
    writer.positions("parameter", NAMES)
    writer.positions("module", NAMES)
    writer.positions("head", ["0", "1"])
    rms = writer.series(SeriesSpec("rms", ("parameter",)))
    entropy = writer.series(SeriesSpec("entropy", ("module", "head")))
    for step in sorted({step for step, _ in PLANTED}):
        own = {NAMES.index(name): value for (at, name), value in PLANTED.items() if at == step}
        values = np.array(list(own.values()), np.float32)
        if step == 2:
            writer.vector(rms, step, values, first=1)
        else:
            writer.vector(rms, step, values, positions=np.array(list(own), np.int32))
    writer.vector(entropy, 1, np.array([[NAN, 2.0]], np.float32), first=0)
    writer.vector(entropy, 3, np.array([[4.0, NAN]], np.float32), first=1)
    for (step, name), value in LOSSES.items():
        writer.scalar(writer.series(SeriesSpec("loss", labels={"optimizer": name})), step, value)
    for (step,), value in SCALARS.items():
        writer.scalar(writer.series(SeriesSpec("accuracy")), step, value)
    writer.close()
    with open_run(tmp_path / "run") as opened:
        yield opened


def same(found: Cells, expected: Cells) -> bool:
    return found.keys() == expected.keys() and all(
        value == expected[key] or (math.isnan(value) and math.isnan(expected[key])) for key, value in found.items()
    )


def from_series(run: Run, name: str) -> Cells:
    data = run.series(name)
    axes = [data.steps.tolist(), *data.coords.values()]
    where = np.argwhere(data.measured)
    return {tuple(axis[i] for axis, i in zip(axes, at, strict=True)): float(data.values[tuple(at)]) for at in where}


def from_pandas(run: Run, name: str) -> Cells:
    table = run.to_pandas().query("series == @name")
    dims = [dim for dim in table.columns.drop(["series", "value"]) if table[dim].notna().any()]
    keys = table[dims].itertuples(index=False, name=None)
    return dict(zip(keys, table["value"], strict=True))


def from_csv(run: Run, name: str) -> Cells:
    path = export_run(run, "csv", run.path.parent / "out.csv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if row[0] == name]
    return {(int(row[1]), *filter(None, row[2:-1])): float(row[-1]) for row in rows}


def from_parquet(run: Run, name: str) -> Cells:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(export_run(run, "parquet", run.path.parent / "out.parquet"))
    rows = [list(row.values()) for row in table.to_pylist() if row["series"] == name]
    return {(row[1], *(label for label in row[2:-1] if label is not None)): row[-1] for row in rows}


def from_tensorboard(run: Run, name: str) -> Cells:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = export_run(run, "tensorboard", run.path.parent / "out")
    read = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in read.Tags()["scalars"] if tag.partition("/")[0] == name]
    return {(point.step, *tag.split("/")[1:]): point.value for tag in tags for point in read.Scalars(tag)}


def from_csv_imported(run: Run, name: str) -> Cells:
    path = export_run(run, "csv", run.path.parent / "out.csv")
    with open_run(import_run(path, run.path.parent / "back").path) as back:
        return from_series(back, name)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "read", [from_series, from_pandas, from_csv, from_parquet, from_tensorboard, from_csv_imported]
)
def test_every_cell_that_was_written_comes_back_and_no_other(
    read: Callable[[Run, str], Cells], name: str, run: Run
) -> None:
    assert same(read(run, name), ALL[name])


def test_sql_tells_nan_from_nothing(run: Run) -> None:
    query = "SELECT step, {}(?, series, first, positions, data) FROM arrays WHERE name = 'rms' ORDER BY step"
    for name in NAMES:
        measured = {step for step, held in run.sql(query.format("label_measured"), (name,)) if held}
        assert measured == {step for step, label in PLANTED if label == name}
        values = {step: value for step, value in run.sql(query.format("label_value"), (name,)) if value is not None}
        assert values == {s: v for (s, label), v in PLANTED.items() if label == name and not math.isnan(v)}
    assert run.sql("SELECT step, value FROM scalars WHERE name = 'accuracy'") == [(1, None), (2, 1.0), (9, None)]


def test_where_every_cell_was_measured_the_mask_takes_no_memory(run: Run) -> None:
    mask = run.series("accuracy").measured
    assert mask.all()
    assert mask.shape == (3,)
    assert not any(mask.strides)
    with pytest.raises(ValueError, match="read-only"):
        mask[0] = False
