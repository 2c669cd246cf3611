"""`separatrix system`: listing, showing, simulating and measuring."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from separatrix.cli import main
from separatrix.runs import open_run
from separatrix.systems import find_system, simulate


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["system", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("Lorenz ") and "flow, 3" in line for line in lines)
    assert any(line.startswith("Duffing ") and "driven" in line for line in lines)
    assert main(["system", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["systems"]
    assert len(listed) == len(lines) >= 155


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["system", "show", "lorenz-63"]) == 0
    shown = capsys.readouterr().out
    for words in ("dx/dt = sigma*(y - x)", "rho = 28", "Lyapunov exponents", "dominant period", "source"):
        assert words in shown
    assert main(["system", "show", "Henon", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "map" and document["parameters"] == {"a": 1.4, "b": 0.3}
    assert main(["system", "show", "mackey-glass"]) == 0
    assert "delayed by tau" in capsys.readouterr().out


def test_simulate_writes_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    arguments = ["--points", "50", "--dt", "0.05", "--set", "rho=24", "--transient", "1"]
    assert main(["system", "simulate", "Lorenz", "--out", str(path), *arguments]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    expected = simulate(find_system("Lorenz"), 50, dt=0.05, parameters={"rho": 24.0}, transient=1.0).values[0]
    with open_run(path) as run:
        for i, name in enumerate("xyz"):
            np.testing.assert_array_equal(run.series(name).values, expected[:, i])
        assert run.config["system"] == "Lorenz" and run.config["rho"] == 24.0
        assert run.meta["system"]["dt"] == 0.05
    assert main(["system", "simulate", "Lorenz", "--out", str(path)]) == 2
    assert "error" in capsys.readouterr().err


def test_copies_are_a_dimension(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert main(["system", "simulate", "Henon", "--out", str(path), "--points", "20", "--copies", "3"]) == 0
    with open_run(path) as run:
        series = run.series("x")
        assert series.values.shape == (20, 3)
        assert series.coords["copy"] == ("0", "1", "2")
    assert main(["show", str(path)]) == 0


def test_lyapunov(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["lyapunov", "Logistic", "--set", "r=4", "--time", "2000", "--copies", "16"]
    assert main(["system", *arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["exponents"][0] == pytest.approx(np.log(2), abs=4 * document["errors"][0])
    assert main(["system", *arguments]) == 0
    assert "per iteration, 16 copies over 2000 iterations each" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "Lorentz"], "did you mean"),
        (["lyapunov", "MackeyGlass"], "has a delay"),
        (["simulate", "Henon", "--out", "x", "--set", "a=9"], "escapes to infinity"),
        (["simulate", "Henon", "--out", "x", "--set", "a=nine"], "is a number, not 'nine'"),
        (["simulate", "Henon", "--out", "x", "--set", "q=1"], "has no parameter 'q'"),
        (["simulate", "Lorenz", "--out", "x", "--dt", "-1"], "must be positive"),
        (["simulate", "Lorenz", "--out", "x", "--points", "0"], "give 1 or more"),
        (["simulate", "Lorenz"], "--out"),
    ],
)
def test_bad_requests_are_one_line(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["system", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_benchmark_ranks_forecasters_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["system", "benchmark", "--systems", "Lorenz,lorenz84", "--models", "var,ndvar", "--points", "400"]
    command += ["--out", str(tmp_path / "out")]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "ndvar" in shown.out.splitlines()[0] and "Nemenyi" in shown.out and "Lyapunov times" in shown.err
    assert (tmp_path / "out" / "ranks.html").stat().st_size > 1000
    kept = (tmp_path / "out" / "trials.jsonl").read_text()
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {trial["system"] for trial in document["trials"]} == {"Lorenz", "Lorenz84"}
    assert set(document["ranking"]["ranks"]) == {"var", "ndvar"}
    assert (tmp_path / "out" / "trials.jsonl").read_text() == kept


def test_benchmark_takes_settings_of_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["system", "benchmark", "--systems", "Lorenz", "--models", "var,ndvar", "--points", "400", "--json"]
    command += ["--out", str(tmp_path)]
    found = []
    for given in ([], ["--set", "ndvar.degree=3", "--set", "ndvar.lags=1"]):
        assert main([*command, *given]) == 0
        trials = json.loads(capsys.readouterr().out)["trials"]
        found.append({trial["model"]: trial["valid_time"] for trial in trials})
    first, second = found
    assert first["var"] == second["var"] and first["ndvar"] != second["ndvar"]
    kept = [json.loads(line)["trial"] for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [key.split("/")[1] for key in kept] == ["var", "ndvar", "ndvar,degree=3,lags=1"]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--systems", "nix"],
        ["--models", "nix"],
        ["--systems", "Lorenz,,Rossler"],
        ["--models", "var", "--set", "ndvar.degree=3"],
        ["--set", "ndvar.nix=3"],
        ["--set", "ndvar.degree=99"],
    ],
)
def test_benchmark_refuses_what_there_is_not(wrong: list[str], tmp_path: Path) -> None:
    assert main(["system", "benchmark", "--out", str(tmp_path), *wrong]) == 2
