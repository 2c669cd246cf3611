"""Gathering what rules say: failures inside, plain data, paths and runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tests.analysis.synthetic import run_of

import separatrix
from separatrix.analysis import Diagnosis, assess
from separatrix.runs import Finding, FindingRule, NotAssessed, Run


def rule(code: str, outcome: object, needs: tuple[str, ...] = ()) -> FindingRule:
    def judge(run: Run) -> object:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return FindingRule(code, code, needs, "source", judge)  # type: ignore[arg-type]


def test_a_rule_that_fails_hides_nothing_that_others_see(tmp_path: Path) -> None:
    found = Finding("fine", "info", 1.0, "a", "b")
    with run_of(tmp_path / "run", {"loss": [1.0]}) as run:
        diagnosis = assess(
            run,
            [
                rule("broken", ZeroDivisionError("by\nzero")),
                rule("fine", [found]),
                rule("picky", [found], ("accuracy",)),
            ],
        )
    assert diagnosis.findings == (found,)
    assert diagnosis.not_assessed == (
        NotAssessed("broken", ("internal error: ZeroDivisionError: by zero",)),
        NotAssessed("picky", ("accuracy",)),
    )


def test_to_dict_is_plain_json_without_nan(tmp_path: Path) -> None:
    symptom = Finding("s", "error", 1.0, "s", "r", step=4)
    evidence = {
        "series": ("loss",),
        "values": np.array([1.0, math.nan, math.inf, -math.inf], np.float32),
        "count": np.int64(3),
        "flag": np.bool_(True),
        "path": tmp_path,
        "nested": {1: [math.nan]},
    }
    diagnosis = Diagnosis("run", (Finding("c", "info", 0.25, "s", "r", evidence=evidence, symptoms=(symptom,)),))
    data = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
    assert set(data) == {"run", "findings", "not_assessed"}
    (cause,) = data["findings"]
    assert set(cause) == {
        *("code", "severity", "confidence", "step", "summary", "evidence", "remedy", "symptoms", "source"),
    }
    assert cause["step"] is None
    assert cause["symptoms"][0]["step"] == 4
    assert cause["evidence"] == {
        "series": ["loss"],
        "values": [1.0, None, "inf", "-inf"],
        "count": 3,
        "flag": True,
        "path": str(tmp_path),
        "nested": {"1": [None]},
    }


def test_worst_looks_at_symptoms_too() -> None:
    symptom = Finding("s", "error", 1.0, "s", "r")
    assert Diagnosis("run", (Finding("c", "info", 1.0, "s", "r", symptoms=(symptom,)),)).worst == "error"
    assert Diagnosis("run").worst is None


def test_a_path_a_string_and_a_run_give_the_same_and_the_run_stays_open(tmp_path: Path) -> None:
    with run_of(tmp_path / "run", {"loss": [1.0, 2.0, math.nan]}) as run:
        expected = separatrix.diagnose(run)
        assert run.names() == ("loss",)
        assert separatrix.diagnose(tmp_path / "run") == separatrix.diagnose(str(tmp_path / "run")) == expected
        assert run.diagnose() == expected
    assert expected.run == "run"
    assert expected.codes == ("nonfinite",)


def test_a_path_without_a_run_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(separatrix.SeparatrixError, match="does not exist"):
        separatrix.diagnose(tmp_path / "nothing")
