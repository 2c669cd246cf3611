"""Finding runs below a folder and naming new ones."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sqlite3
from pathlib import Path

import pytest
from tests.conftest import MakeRun

from separatrix.runs import RunWriter, SeriesSpec, Status, open_run
from separatrix.runs.catalogue import find_runs, fresh_run_path


def test_runs_of_every_kind_are_found(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("b/crashed", scalars={"loss": [1.0, math.nan]}, status=Status.CRASHED, traceback="boom")
    make_run("a", scalars={"loss": {10: 2.0, 30: 0.5}, "lr": [1.0]})
    make_run("c/no-loss", scalars={"x": [1.0]})
    make_run("d/nothing")
    broken = tmp_path / "b" / "broken"
    broken.mkdir()
    (broken / "run.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    entries = {str(entry.path.relative_to(tmp_path)): entry for entry in find_runs(tmp_path)}
    assert list(entries) == ["a", "b/broken", "b/crashed", "c/no-loss", "d/nothing"]
    good = entries["a"]
    assert (good.status, good.last_step, good.last_loss, good.series, good.problem) == ("finished", 30, 0.5, 2, None)
    assert good.started is not None
    crashed = entries["b/crashed"]
    assert crashed.status is Status.CRASHED
    assert crashed.last_loss is not None
    assert math.isnan(crashed.last_loss)
    assert entries["c/no-loss"].last_loss is None
    assert entries["d/nothing"].last_step is None
    unreadable = entries["b/broken"]
    assert unreadable.status is None
    assert unreadable.problem
    assert "\n" not in unreadable.problem


@pytest.mark.parametrize("steps", [[[1, 2, 3], [4, 5]], [[1, 5, 7], [9, 30]], [[1, 2, 3, 4], [3]], [[1], [2, 3], [2]]])
def test_the_last_loss_is_the_one_at_the_last_step(steps: list[list[int]], tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")
    series, written = writer.series(SeriesSpec("loss")), itertools.count()
    for stretch in steps:
        for step in stretch:
            writer.scalar(series, step, float(next(written)))
        writer.flush()
    writer.close()
    with open_run(tmp_path / "run") as run:
        expected = run.series("loss").values[-1]
    assert [entry.last_loss for entry in find_runs(tmp_path)] == [expected]


def test_a_damaged_loss_is_a_problem_and_no_number(make_run: MakeRun) -> None:
    path = make_run(scalars={"loss": [1.0, 2.0]})
    with contextlib.closing(sqlite3.connect(path / "run.sqlite")) as connection, connection:
        connection.execute("UPDATE points SET data = x''")
    (entry,) = find_runs(path)
    assert entry.last_loss is None
    assert entry.problem


def test_the_folder_itself_may_be_a_run(make_run: MakeRun) -> None:
    path = make_run(scalars={"loss": [1.0]})
    assert [entry.path for entry in find_runs(path)] == [path]


def test_hidden_folders_links_and_folders_inside_runs_are_not_searched(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run", scalars={"loss": [1.0]})
    make_run("inner", scalars={"loss": [1.0]}, folder=run)
    make_run("run", scalars={"loss": [1.0]}, folder=tmp_path / ".trash")
    (tmp_path / "link").symlink_to(run)
    assert [entry.path for entry in find_runs(tmp_path)] == [run]


def test_only_folders_that_may_hold_runs_are_opened(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("project/runs/first", scalars={"loss": [1.0]})
    for inside in ("checkpoints/deep", "ranks"):
        (run / inside).mkdir(parents=True)
    installed = ("node_modules/a/b", ".venv/lib", ".git/objects", "venv/lib/site-packages/torch", "src/__pycache__/x")
    for folder in installed:
        make_run(f"project/{folder}/run", scalars={"loss": [1.0]})
    opened: list[str] = []
    scandir = os.scandir

    def watched(path: str) -> object:
        opened.append(os.path.relpath(path, tmp_path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", watched)
    assert [entry.path for entry in find_runs(tmp_path)] == [run]
    expected = {".", "project", "project/runs", "project/runs/first", "project/src", "project/venv", "project/venv/lib"}
    assert set(opened) == expected


def test_nothing_is_written(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run", scalars={"loss": [1.0]})
    before = {path: path.read_bytes() for path in run.rglob("*")}
    find_runs(tmp_path)
    assert {path: path.read_bytes() for path in run.rglob("*")} == before


def test_new_paths_never_exist(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        path = fresh_run_path("train", tmp_path, now=0.0)
        path.mkdir()
        names.append(path.name)
    assert names[0].startswith("train-19")
    assert names == [names[0], f"{names[0]}-2", f"{names[0]}-3"]


@pytest.mark.parametrize("stem", ["a/b", "..", "x" * 500, "new\nline", ""])
def test_odd_names_stay_inside_the_folder(stem: str, tmp_path: Path) -> None:
    path = fresh_run_path(stem, tmp_path)
    path.mkdir()
    assert path.parent == tmp_path
    assert path.resolve().parent == tmp_path.resolve()
