"""`separatrix study`: listing, showing and running, its exit codes and its JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import RunSeparatrix

import separatrix.studies
from separatrix.arguments import parse
from separatrix.cli import main
from separatrix.runs import UsageError
from separatrix.studies import Control, Outcome, Paper, Plan, Progress, Setting, Settings, Statement, Study

CLAIM_KEYS = {"name", "kind", "expected", "measured", "tolerance", "passed"}
KEYS = {"id", "slug", "paper", "settings", "seed", "quick", "seconds", "claims", "controls", "passed"}
IDS = ["44", "477", "505"]


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    progress()
    return Outcome(
        {"ratio": settings["value"] / 2.0, "finite": [seed, 1.0 / settings["value"]]},
        {"wrong": float("inf")},
        {"c": [1.0]},
    )


PLANTED = Study(
    id="7",
    slug="halves",
    paper=Paper("On halves", ("A. Uthor",), 1999),
    summary="Half of two is one.",
    settings=(
        Setting("value", "float", 2.0, "what is halved", 1.0, 4.0),
        Setting("kind", "str", "a", "unused", choices=("a", "b")),
        Setting("flag", "bool", False, "unused"),
    ),
    statements=(
        Statement("ratio", "equal", 1.0, "The half is one.", tolerance=0.1),
        Statement("finite", "at_most", 1e9, "Numbers are not large."),
    ),
    controls=(Control("wrong", "ratio", "Infinity halved."),),
    plan=lambda settings, quick: Plan(1, 0.1),
    run=_run,
)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr(separatrix.studies, "find_study", lambda name: PLANTED)
    return PLANTED


def strictly_parsed(text: str) -> Any:
    def refuse(token: str) -> None:
        raise ValueError(f"{token} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "list", "--json"]) == 0
    listed = strictly_parsed(capsys.readouterr().out)["studies"]
    assert [entry["id"] for entry in listed if entry["id"] in IDS] == IDS
    assert main(["study", "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [entry["id"] for entry in listed]
    for entry in listed:
        assert main(["study", "show", entry["slug"], "--json"]) == 0
        shown = strictly_parsed(capsys.readouterr().out)
        assert entry.items() <= shown.items()
        assert all({"name", "type", "default"} <= setting.keys() for setting in shown["settings"])
        assert all("choices" in s or len(s["range"]) == 2 for s in shown["settings"] if s["type"] != "bool")
        assert main(["study", "show", entry["id"]]) == 0
        text = capsys.readouterr().out
        assert all(part["name"] in text for key in ("settings", "claims", "controls") for part in shown[key])


def test_a_study_runs_as_a_user_types_it(run_separatrix: RunSeparatrix) -> None:
    smoke = [f"--set={key}={value}" for key, value in separatrix.studies.find_study("44").smoke.items()]
    code, out, err = run_separatrix("study", "run", "tangent-kernel", "--quick", "--seed", "1", "--json", *smoke)
    assert (code, err) == (0, "")
    (result,) = strictly_parsed(out)["studies"]
    assert result.keys() == KEYS
    assert (result["id"], result["seed"], result["quick"], result["passed"]) == ("44", 1, True, True)
    assert all(claim.keys() == CLAIM_KEYS and claim["passed"] for claim in result["claims"])
    assert all(control.keys() == CLAIM_KEYS | {"refutes"} for control in result["controls"])
    assert not any(control["passed"] for control in result["controls"])


@pytest.mark.parametrize(
    ("line", "code", "passed"),
    [
        ([], 0, [True, True]),
        (["--set", "value=2.1"], 0, [True, True]),
        (["--set", "value=3"], 1, [False, True]),
        (["--set", "value=3", "--set", "value=2"], 0, [True, True]),
        (["--seed", "2000000000"], 1, [True, False]),
    ],
)
def test_exit_codes_follow_the_claims(
    planted: Study, line: list[str], code: int, passed: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "run", "7", "--json", *line]) == code
    document = strictly_parsed(capsys.readouterr().out)
    (result,) = document["studies"]
    assert [claim["passed"] for claim in result["claims"]] == passed
    assert result["passed"] == all(passed)
    assert result["controls"][0]["measured"] == "inf"
    assert main(["study", "run", "7", *line]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "7 halves: 1 runs x about 0.1 s"
    assert [text.split()[0] for text in lines[1:3]] == ["passed" if good else "FAILED" for good in passed]


def test_a_control_that_passes_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blind = dataclasses.replace(PLANTED, controls=(Control("wrong", "finite", "Fits."),), run=_blind)
    monkeypatch.setattr(separatrix.studies, "find_study", lambda name: blind)
    assert main(["study", "run", "7"]) == 1
    assert "PASSED, which it must not" in capsys.readouterr().out


def _blind(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    progress()
    return Outcome({"ratio": 1.0, "finite": 0.0}, {"wrong": 0.0})


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (["--set", "value=5"], ["value=5", "1 to 4"]),
        (["--set", "value=nan"], ["value=nan", "1 to 4"]),
        (["--set", "value=much"], ["value='much'", "float"]),
        (["--set", "kind=c"], ["kind='c'", "a, b"]),
        (["--set", "flag=1"], ["flag='1'", "true, false"]),
        (["--set", "other=1"], ["'other'", "value, kind, flag"]),
    ],
)
def test_wrong_settings_are_one_line_and_run_nothing(
    planted: Study, line: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "run", "7", *line]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("separatrix: error: ")
    assert err.count("\n") == 1
    assert all(part in err for part in parts)


@pytest.mark.parametrize("line", [["show", "no-such"], ["run", "44", "no-such"], ["run", "44", "--set", "widht=3"]])
def test_an_unknown_name_is_an_error(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", *line]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "choose from" in err


@pytest.mark.parametrize(
    "line", [["study"], ["study", "run"], ["study", "run", "7", "--seed", "-1"], ["study", "run", "7", "--set", "a"]]
)
def test_wrong_usage(line: list[str]) -> None:
    with pytest.raises(UsageError, match="--help"):
        parse(line)


def test_results_are_written_where_told_and_never_over_others(
    planted: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "run", "7", "--out", str(tmp_path / "new")]) == 0
    (written,) = (tmp_path / "new").iterdir()
    document = strictly_parsed(written.read_text())
    assert document.keys() == KEYS | {"series"}
    assert document["series"] == {"c": [1.0]}
    capsys.readouterr()
    assert main(["study", "run", "7", "--out", str(tmp_path / "new")]) == 2
    assert "exists" in capsys.readouterr().err
