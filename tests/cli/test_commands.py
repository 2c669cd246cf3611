"""Every command as a user types it, in a process of its own."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import MakeRun, RunSeparatrix

import separatrix
from separatrix.cli import main
from separatrix.runs import open_run

FALLING = [2.0 / (1 + 0.1 * step) for step in range(60)]
BROKEN = [2.0, 2.5, 40.0, 1e6, math.inf, math.nan, math.nan, math.nan]


def test_version(run_separatrix: RunSeparatrix) -> None:
    assert run_separatrix("--version") == (0, f"separatrix {separatrix.__version__}\n", "")


def test_list_names_all_runs_and_the_unreadable_ones(
    run_separatrix: RunSeparatrix, make_run: MakeRun, tmp_path: Path
) -> None:
    make_run("good", scalars={"loss": FALLING}, folder=tmp_path / "runs" / "deep")
    broken = tmp_path / "runs" / "broken"
    broken.mkdir()
    (broken / "run.sqlite").write_bytes(b"no database at all")
    (tmp_path / "runs" / "notes").mkdir()
    code, out, err = run_separatrix("list", tmp_path / "runs", env={"COLUMNS": "200"})
    assert code == 0, err
    assert "good" in out
    assert "finished" in out
    assert re.search(r"broken.*unreadable|unreadable.*broken", out)
    assert "notes" not in out


def test_show(run_separatrix: RunSeparatrix, make_run: MakeRun) -> None:
    code, out, err = run_separatrix("show", make_run(scalars={"loss": FALLING}))
    assert (code, err) == (0, "")
    assert "loss" in out


def test_report_goes_into_the_run_or_where_told(
    run_separatrix: RunSeparatrix, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(scalars={"loss": FALLING})
    code, out, err = run_separatrix("report", run)
    assert (code, err) == (0, "")
    assert Path(out.strip()) == run / "report.html"
    assert (run / "report.html").read_text(encoding="utf-8").lower().startswith("<!doctype html>")
    assert main(["report", str(run), "-o", str(tmp_path / "mine.html")]) == 0
    assert (tmp_path / "mine.html").stat().st_size > 1000


def test_compare(run_separatrix: RunSeparatrix, make_run: MakeRun) -> None:
    first, second = make_run("first", scalars={"loss": FALLING}), make_run("second", scalars={"loss": FALLING[:30]})
    code, out, err = run_separatrix("compare", first, second, env={"COLUMNS": "160"})
    assert (code, err) == (0, "")
    assert "first" in out
    assert "second" in out


def test_compare_says_where_runs_part(
    run_separatrix: RunSeparatrix, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = [value if step < 40 else value + 5.0 for step, value in enumerate(FALLING)]
    first, second = make_run("first", scalars={"loss": FALLING}), make_run("second", scalars={"loss": changed})
    code, out, err = run_separatrix("compare", first, second, env={"COLUMNS": "160"})
    assert (code, err) == (0, "")
    assert "first and second part at step 41, in loss." in out
    assert re.search(r"loss +40 +41 +41 +0\.4 +5\.4", out), out
    assert main(["compare", "--json", str(first), str(second), str(first)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["runs"] == [str(first), str(second), str(first)]
    parted, same = document["partings"]
    assert [each["parts_at"] for each in parted["series"]] == [41]
    assert (same["series"][0]["differs_at"], same["series"][0]["equal_until"]) == (None, 60)
    assert document["series"]["loss"][1]["highest_step"] == 41


def test_diagnose_exit_codes_and_output(run_separatrix: RunSeparatrix, make_run: MakeRun) -> None:
    good, bad = make_run("good", scalars={"loss": FALLING}), make_run("bad", scalars={"loss": BROKEN})
    assert main(["diagnose", str(good)]) == 0
    assert main(["diagnose", str(bad)]) == 1
    code, out, err = run_separatrix("diagnose", good, bad, "nowhere")
    assert code == 2
    assert "nonfinite" in out
    assert err.startswith("separatrix: error: nowhere does not exist")
    assert err.count("\n") == 1


@pytest.mark.parametrize("kind", ["csv", "parquet", "tensorboard"])
def test_export(run_separatrix: RunSeparatrix, make_run: MakeRun, tmp_path: Path, kind: str) -> None:
    destination = tmp_path / "out"
    code, out, err = run_separatrix("export", make_run(scalars={"loss": FALLING}), "--to", kind, destination)
    assert (code, out.strip(), err) == (0, str(destination), "")
    assert destination.is_dir() == (kind == "tensorboard")


def test_import_names_the_run_and_what_was_renamed(run_separatrix: RunSeparatrix, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train_loss,other\n1,2.0,\n2,1.0,oops\n3,0.5,3\n")
    code, out, err = run_separatrix("import", "metrics.csv")
    assert code == 0, err
    run = tmp_path / out.strip()
    assert re.fullmatch(r"separatrix-runs/metrics-\d{8}-\d{6}", out.strip())
    assert "train_loss -> loss" in err
    assert "line 3" in err
    assert f"separatrix diagnose {out.strip()}" in err
    assert open_run(run).series("loss").values.tolist() == [2.0, 1.0, 0.5]
    assert [main([command, str(run)]) for command in ("diagnose", "show", "report")] == [0, 0, 0]


@pytest.mark.parametrize(("noun", "key", "expected"), [("probe", "name", ""), ("finding", "code", "nonfinite")])
def test_members_are_listed(
    run_separatrix: RunSeparatrix, capsys: pytest.CaptureFixture[str], noun: str, key: str, expected: str
) -> None:
    code, out, err = run_separatrix(noun, "list", "--json")
    assert (code, err) == (0, "")
    members = json.loads(out)[f"{noun}s"]
    names = [member[key] for member in members]
    assert names == sorted(names)
    assert names
    assert expected in ("", *names)
    assert main([noun, "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == names


def test_watch_leaves_output_and_exit_code_to_the_script(run_separatrix: RunSeparatrix, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import sys\nprint('said', sys.argv[1:])\nsys.exit(7)\n")
    code, out, err = run_separatrix("watch", "--run", "r", "train.py", "--help", "--run", "mine")
    assert (code, out) == (7, "said ['--help', '--run', 'mine']\n")
    assert err in ("", "separatrix: recorded in r; next: separatrix diagnose r\n")


def test_watch_names_the_run_after_the_script(run_separatrix: RunSeparatrix, tmp_path: Path) -> None:
    (tmp_path / "my train.py").write_text("import torch\n")
    code, out, err = run_separatrix("watch", "my train.py")
    assert (code, out) == (0, "")
    said = re.fullmatch(r"separatrix: recorded in (\S+ \S+); next: separatrix diagnose '(.*)'\n", err)
    assert said is not None
    assert said[1] == said[2]
    assert re.fullmatch(r"separatrix-runs/my train-\d{8}-\d{6}", said[1])
    assert open_run(tmp_path / said[1]).status == "finished"
    (tmp_path / "no_torch.py").write_text("print('said')\n")
    assert run_separatrix("watch", "--quiet", "no_torch.py") == (0, "said\n", "")


def test_a_closed_pipe_is_quiet(make_run: MakeRun) -> None:
    run = make_run(scalars={f"metric_{index}": FALLING for index in range(40)})
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "separatrix", "show", str(run)], stdout=writer, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 141
