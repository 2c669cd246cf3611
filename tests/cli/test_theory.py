"""`separatrix theory`: listing, showing, and writing what a theory predicts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.theory._parabola import SOUND

import separatrix.theory
from separatrix.cli import main
from separatrix.runs import open_run
from separatrix.theory import Theory


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Theory:
    monkeypatch.setattr(separatrix.theory, "find_theory", lambda name: SOUND)
    monkeypatch.setattr(separatrix.theory, "theories", lambda: {SOUND.name: SOUND})
    return SOUND


def test_list_and_show(planted: Theory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["theory", "list"]) == 0
    assert capsys.readouterr().out == "parabola  How fast does one weight decay?\n"
    assert main(["theory", "list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["theories"]
    assert main(["theory", "show", "parabola", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == listed
    assert [series["name"] for series in listed["series"]] == ["loss", "weight"]
    assert listed["settings"][0]["range"] == [0.05, 0.4]
    assert main(["theory", "show", "parabola"]) == 0
    shown = capsys.readouterr().out
    for words in (SOUND.question, "On parabolas", "rate = 0.1", "it is exact", "weight (step, mode)"):
        assert words in shown


def test_prediction_and_simulation_are_runs_and_a_figure(planted: Theory, tmp_path: Path) -> None:
    arguments = ["--run", str(tmp_path / "predicted"), "--simulate", str(tmp_path / "trained")]
    figure = tmp_path / "both.html"
    assert main(["theory", "predict", "parabola", "--set", "rate=0.2", *arguments, "--figure", str(figure)]) == 0
    predicted, trained = (open_run(tmp_path / name) for name in ("predicted", "trained"))
    assert predicted.config["rate"] == 0.2 and not predicted.config["simulated"] and trained.config["simulated"]
    assert predicted.series("loss").values[1] == pytest.approx(0.5 * 0.8**2)
    assert trained.series("loss").values[1] == pytest.approx(0.5 * 0.8**2)
    assert "parabola: lines predicted, circles trained" in figure.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["parabola"], "--figure"),
        (["parabola", "--run", "x", "--set", "rate=9"], "choose from 0.05 to 0.4"),
        (["parabola", "--run", "x", "--set", "speed=9"], "choose from rate"),
    ],
)
def test_bad_requests_are_one_line(
    planted: Theory, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["theory", "predict", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_an_existing_run_is_not_overwritten(planted: Theory, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()
    assert main(["theory", "predict", "parabola", "--run", str(tmp_path / "run")]) == 2


def test_an_unknown_theory_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["theory", "show", "no-such"]) == 2
    assert "choose from" in capsys.readouterr().err
