"""Bad input of every kind ends with one line on standard error and exit code 2, never with a traceback."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import MakeRun, RunSeparatrix

from separatrix.cli import main

READERS = {
    "show": ["show", "{}"],
    "report": ["report", "{}", "-o", "report.html"],
    "compare": ["compare", "{}", "{}"],
    "diagnose": ["diagnose", "{}"],
    "diagnose --json": ["diagnose", "--json", "{}"],
    "export": ["export", "{}", "--to", "csv", "out.csv"],
}


def _missing(path: Path) -> None:
    del path


def _empty_folder(path: Path) -> None:
    path.mkdir()


def _a_file(path: Path) -> None:
    path.write_text("hello")


def _no_database(path: Path) -> None:
    path.mkdir()
    (path / "run.sqlite").write_bytes(bytes(range(256)) * 20)


def _foreign_database(path: Path) -> None:
    path.mkdir()
    with sqlite3.connect(path / "run.sqlite") as connection:
        connection.execute("CREATE TABLE mine(x)")
    connection.close()


BAD_RUNS: dict[str, Callable[[Path], None]] = {
    "missing": _missing,
    "empty folder": _empty_folder,
    "a file": _a_file,
    "no database": _no_database,
    "foreign database": _foreign_database,
    "control\n\x1b[31mcharacters": _missing,
}


def assert_one_line_and_two(code: int, out: str, err: str) -> None:
    assert (code, out) == (2, "")
    assert err.startswith("separatrix: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert err.strip().isprintable()
    assert "Traceback" not in err


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("kind", BAD_RUNS)
def test_a_run_that_cannot_be_read(
    kind: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / kind
    BAD_RUNS[kind](path)
    before = sorted(tmp_path.rglob("*"))
    code = main([argument.format(path) for argument in READERS[command]])
    assert_one_line_and_two(code, *capsys.readouterr())
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["nonsense"],
        ["list", "nowhere"],
        ["list", "file"],
        ["compare", "run"],
        ["report", "run", "-o", "folder"],
        ["report", "run", "-o", "nowhere/deep/report.html"],
        ["report", "run", "-o", "file/report.html"],
        ["export", "run", "--to", "csv", "file"],
        ["export", "run", "--to", "parquet", "full"],
        ["export", "run", "--to", "tensorboard", "full"],
        ["export", "run", "--to", "csv", "file/out.csv"],
        ["import", "nowhere.csv"],
        ["import", "folder"],
        ["import", "/dev/null"],
        ["import", "empty.csv"],
        ["import", "file"],
        ["import", "good.csv", "--run", "full"],
        ["import", "good.csv", "--run", "file"],
        ["import", "good.csv", "--run", "file/run"],
        ["watch"],
        ["watch", "-m"],
        ["watch", "nowhere.py"],
        ["watch", "folder"],
        ["watch", "-m", "no_such_module_anywhere"],
        ["watch", "--run", "full", "script.py"],
        ["watch", "--run", "file", "script.py"],
        ["watch", "--resume", "script.py"],
        ["watch", "--resume", "--run", "full", "script.py"],
        ["watch", "--budget", "2", "script.py"],
        ["watch", "--probes", "no-such-probe", "script.py"],
        ["watch", "--checkpoints", "-3", "script.py"],
    ],
    ids=" ".join,
)
def test_wrong_arguments(
    line: list[str],
    make_run: MakeRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run("run", scalars={"loss": [1.0, 0.5]})
    (tmp_path / "folder").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("precious")
    (tmp_path / "file").write_text("precious")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "good.csv").write_text("step,loss\n1,2\n")
    (tmp_path / "script.py").write_text("open('it-ran', 'w')\n")
    before = sorted(tmp_path.rglob("*"))
    assert_one_line_and_two(main(line), *capsys.readouterr())
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "precious"


def test_as_a_process(run_separatrix: RunSeparatrix, tmp_path: Path) -> None:
    assert_one_line_and_two(*run_separatrix("show", "nowhere"))
    assert_one_line_and_two(*run_separatrix("watch", "nowhere.py"))
    assert_one_line_and_two(*run_separatrix("import", "nowhere"))
    assert list(tmp_path.iterdir()) == []


def test_names_that_the_terminal_cannot_show(run_separatrix: RunSeparatrix, make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("été \udcff", scalars={"перте": [1.0, 0.5]})
    for line in (["list", tmp_path], ["show", run], ["report", run]):
        code, out, err = run_separatrix(*line, env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"})
        assert (code, err) == (0, ""), line
        assert out.isascii()


def test_ctrl_c_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("separatrix.commands.list_runs.find_runs", interrupted)
    assert main(["list", str(tmp_path)]) == 130
    assert capsys.readouterr() == ("", "")


def test_an_operating_system_error_names_the_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def failing(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied", "/some/where")

    monkeypatch.setattr("separatrix.commands.list_runs.find_runs", failing)
    code = main(["list", str(tmp_path)])
    out, err = capsys.readouterr()
    assert_one_line_and_two(code, out, err)
    assert "/some/where: Permission denied" in err
