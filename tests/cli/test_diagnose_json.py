"""The JSON of `diagnose --json`: one document, strict JSON, the fields that other tools hold on to."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from tests.conftest import MakeRun

from separatrix.cli import main

BROKEN = [2.0, 2.5, 40.0, 1e6, math.inf, math.nan, math.nan, math.nan]
FALLING = [2.0 / (1 + 0.1 * step) for step in range(60)]
FINDING_KEYS = {"code", "severity", "confidence", "step", "summary", "evidence", "remedy", "symptoms", "source"}


def strictly_parsed(text: str) -> Any:
    def refuse(token: str) -> None:
        raise ValueError(f"{token} is no JSON")

    return json.loads(text, parse_constant=refuse)


def check_finding(finding: dict[str, Any]) -> None:
    assert finding.keys() == FINDING_KEYS
    assert finding["severity"] in ("error", "warning", "info")
    assert 0 <= finding["confidence"] <= 1
    assert finding["step"] is None or isinstance(finding["step"], int)
    assert isinstance(finding["evidence"], dict)
    for key in ("code", "summary", "remedy", "source"):
        assert isinstance(finding[key], str)
        assert finding[key]
    for symptom in finding["symptoms"]:
        check_finding(symptom)


def test_one_run(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "--json", str(make_run("bad", scalars={"loss": BROKEN}))]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    document = strictly_parsed(out)
    assert document.keys() == {"run", "findings", "not_assessed"}
    assert document["run"] == "bad"
    codes = [entry["code"] for finding in document["findings"] for entry in (finding, *finding["symptoms"])]
    assert "nonfinite" in codes
    for finding in document["findings"]:
        check_finding(finding)
    for entry in document["not_assessed"]:
        assert entry.keys() == {"code", "missing"}
        assert all(isinstance(name, str) for name in entry["missing"])


def test_several_runs_keep_their_order(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    bad, good = make_run("bad", scalars={"loss": BROKEN}), make_run("good", scalars={"loss": FALLING})
    assert main(["diagnose", "--json", str(good), str(bad)]) == 1
    document = strictly_parsed(capsys.readouterr().out)
    assert document.keys() == {"runs"}
    assert [run["run"] for run in document["runs"]] == ["good", "bad"]


def test_an_unreadable_run_among_several_is_named(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    bad = make_run("bad", scalars={"loss": BROKEN})
    assert main(["diagnose", "--json", str(bad), "nowhere"]) == 2
    out, err = capsys.readouterr()
    document = strictly_parsed(out)
    assert document["runs"][0]["run"] == "bad"
    assert document["runs"][1].keys() == {"run", "error"}
    assert document["runs"][1]["run"] == "nowhere"
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("worst", "codes"), [("error", (1, 1, 1)), ("warning", (0, 1, 1)), ("info", (0, 0, 1)), (None, (0, 0, 0))]
)
def test_fail_on(
    worst: str | None,
    codes: tuple[int, ...],
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import separatrix.analysis
    from separatrix.analysis import Diagnosis
    from separatrix.runs import Finding

    findings = () if worst is None else (Finding("planted", worst, 1.0, "what", "do", source="test"),)
    monkeypatch.setattr(separatrix.analysis, "diagnose", lambda run: Diagnosis("run", findings))
    path = str(make_run(scalars={"loss": FALLING}))
    for threshold, code in zip(("error", "warning", "info"), codes, strict=True):
        assert main(["diagnose", "--json", "--fail-on", threshold, path]) == code
    capsys.readouterr()
