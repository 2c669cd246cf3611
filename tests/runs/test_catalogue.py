"""Finding runs below a folder and naming new ones."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tests.conftest import MakeRun

from separatrix.runs import Status
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


def test_the_folder_itself_may_be_a_run(make_run: MakeRun) -> None:
    path = make_run(scalars={"loss": [1.0]})
    assert [entry.path for entry in find_runs(path)] == [path]


def test_hidden_folders_links_and_folders_inside_runs_are_not_searched(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("run", scalars={"loss": [1.0]})
    make_run("inner", scalars={"loss": [1.0]}, folder=run)
    make_run("run", scalars={"loss": [1.0]}, folder=tmp_path / ".trash")
    (tmp_path / "link").symlink_to(run)
    assert [entry.path for entry in find_runs(tmp_path)] == [run]


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
