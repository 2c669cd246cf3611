"""The benchmark of planted faults: its arithmetic, its split, and what its scripts promise."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

faults = pytest.importorskip("benchmarks.faults", reason="benchmarks are not part of a source distribution")

from benchmarks.faults import scoring  # noqa: E402
from benchmarks.faults.__main__ import read, write  # noqa: E402
from benchmarks.faults.catalogue import CAUSES, HEALTHY, part_of, scripts  # noqa: E402
from benchmarks.faults.tables import report  # noqa: E402
from benchmarks.faults.trials import Trial  # noqa: E402


def finding(code: str, severity: str = "error", symptoms: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"code": code, "severity": severity, "symptoms": list(symptoms)}


def trial(code: str, *findings: dict[str, Any], name: str = "script") -> Trial:
    return Trial(code, name, 0, f"{code}{name}", 0, 1.0, "", True, list(findings), [])


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (1, 1), (0, 7), (3, 7), (7, 7), (19, 20), (50, 1000)])
def test_wilson_holds_exactly_the_shares_that_the_score_test_does_not_reject(hits: int, trials: int) -> None:
    low, high = scoring.wilson(hits, trials)

    def score(p: float) -> float:
        return (hits / trials - p) ** 2 - scoring.Z_95**2 * p * (1 - p) / trials

    for end in (low, high):
        assert score(end) == pytest.approx(0.0, abs=1e-12) or end in (0.0, 1.0)
    assert low <= hits / trials <= high
    assert score((low + high) / 2) < 0
    assert low == 0.0 or score(low - 1e-3) > 0
    assert high == 1.0 or score(high + 1e-3) > 0


def test_wilson_agrees_with_published_values() -> None:
    # Newcombe 1998, Statistics in Medicine 17, 857, table I, method 3.
    assert scoring.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert scoring.wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert scoring.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert scoring.wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_wilson_without_trials_says_nothing() -> None:
    assert all(math.isnan(end) for end in scoring.wilson(0, 0))


def test_the_split_is_the_parity_of_the_hash() -> None:
    # echo -n nonfinite/fp16_overflow | sha256sum ends in an odd digit, nonfinite/kl_of_zero in an even one.
    assert part_of("nonfinite", "fp16_overflow") == "measuring"
    assert part_of("nonfinite", "kl_of_zero") == "setting"
    shares = [part_of("code", str(n)) == "setting" for n in range(1000)]
    assert 400 < sum(shares) < 600


def test_an_alarm_is_right_where_planted_or_folded_under_the_planted_cause() -> None:
    cause = finding("unnormalized-inputs", "warning", (finding("diverging"),))
    assert scoring.alarms(trial("unnormalized-inputs", cause)) == {"unnormalized-inputs": True, "diverging": True}
    assert scoring.alarms(trial("diverging", cause)) == {"unnormalized-inputs": False, "diverging": True}
    assert scoring.alarms(trial(HEALTHY, cause)) == {"unnormalized-inputs": False, "diverging": False}
    beside = (finding("unnormalized-inputs"), finding("diverging"))
    assert scoring.alarms(trial("unnormalized-inputs", *beside)) == {"unnormalized-inputs": True, "diverging": False}


def test_info_is_found_but_no_alarm() -> None:
    quiet = trial("loss-spike", finding("loss-spike", "info"))
    assert scoring.found(quiet)
    assert scoring.alarms(quiet) == {}
    assert scoring.first(quiet) == "loss-spike"
    assert scoring.first(trial(HEALTHY, finding("loss-spike", "info"))) == scoring.NOTHING
    (row,) = scoring.rows([quiet])
    assert (row.recall.hits, row.info_only, row.precision.trials) == (1, 1, 0)


def test_rows_count_by_hand() -> None:
    trials = [
        trial("diverging", finding("diverging")),
        trial("diverging", finding("exploding-gradient", "error", (finding("diverging"),)), name="second"),
        trial("diverging", name="third"),
        trial("dead-units", finding("dead-units"), finding("diverging")),
        trial(HEALTHY, finding("dead-units", "warning")),
        trial(HEALTHY, finding("dead-units", "info"), name="second"),
    ]
    rows = {row.code: row for row in scoring.rows(trials)}
    assert {code: (row.recall.hits, row.recall.trials) for code, row in rows.items()} == {
        "diverging": (2, 3),
        "dead-units": (1, 1),
        "exploding-gradient": (0, 0),
    }
    assert {code: (row.precision.hits, row.precision.trials) for code, row in rows.items()} == {
        "diverging": (2, 3),
        "dead-units": (1, 2),
        "exploding-gradient": (0, 1),
    }
    assert dataclasses.astuple(scoring.placed_first(trials)) == (2, 4)
    assert dataclasses.astuple(scoring.false_alarms(trials)) == (1, 2)
    assert scoring.confusion(trials) == {
        "dead-units": {"dead-units": 1},
        "diverging": {"diverging": 1, "exploding-gradient": 1, scoring.NOTHING: 1},
        HEALTHY: {"dead-units": 1, scoring.NOTHING: 1},
    }
    text = report(trials)
    assert "diverging/third, seed 0: missed" in text
    assert "healthy/script, seed 0: wrong alarm dead-units" in text


def test_the_cause_that_a_script_has_is_right_but_not_the_planted_one() -> None:
    caused = trial("diverging", finding("lr-too-high", "error", (finding("nonfinite"),)), name="momentum_regression")
    assert scoring.alarms(caused) == {"lr-too-high": True, "nonfinite": True}
    assert not scoring.found(caused)
    assert dataclasses.astuple(scoring.placed_first([caused])) == (0, 1)
    assert dataclasses.astuple(scoring.cause_placed_first([caused])) == (1, 1)
    elsewhere = dataclasses.replace(caused, name="td_no_target")
    assert dataclasses.astuple(scoring.precision([caused, elsewhere])) == (2, 4)
    assert dataclasses.astuple(scoring.cause_placed_first([elsewhere])) == (0, 1)


def test_causes_are_of_scripts_that_exist() -> None:
    known = {f"{script.code}/{script.name}" for script in scripts()}
    assert set(CAUSES) <= known
    assert set(CAUSES.values()) <= {script.code for script in scripts()} - {HEALTHY}


def test_kept_trials_are_read_again_also_after_a_cut_line(tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    one, two = trial("diverging", finding("diverging")), trial(HEALTHY)
    write(file, one)
    file.write_text(file.read_text() + json.dumps(dataclasses.asdict(two))[:20])
    assert read(file) == {one.key: one}
    write(file, two)
    assert read(file) == {one.key: one, two.key: two}
    assert read(tmp_path / "none") == {}


def test_trials_without_a_diagnosis_are_named_and_not_counted(tmp_path: Path) -> None:
    failed = dataclasses.replace(trial(HEALTHY), diagnosed=False, trouble="no such probe")
    text = report([failed, trial("diverging", finding("diverging"))])
    assert "Healthy trainings with an alarm: -." in text
    assert "1 trials gave no diagnosis and are not counted:" in text
    assert "healthy/script, seed 0: no such probe" in text
    write(tmp_path / "trials.jsonl", failed)
    assert read(tmp_path / "trials.jsonl") == {}


def test_every_code_has_scripts_to_set_and_to_measure() -> None:
    counts: dict[str, list[str]] = {}
    for script in scripts():
        counts.setdefault(script.code, []).append(script.part)
    assert len(counts.pop(HEALTHY)) >= 50
    assert {code: parts for code, parts in counts.items() if "setting" not in parts} == {}
    assert {code: parts for code, parts in counts.items() if parts.count("measuring") < 2} == {}


@pytest.mark.parametrize("script", scripts(), ids=lambda script: f"{script.code}/{script.name}")
def test_a_script_is_plain_code_that_takes_a_seed(script: Any) -> None:
    text = script.path.read_text()
    assert "separatrix" not in text.lower()
    assert "--seed" in text
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    import sys

    assert imported <= {"torch", "numpy", "sklearn"} | set(sys.stdlib_module_names)


def test_unknown_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="no scripts for typo"):
        scripts(codes=["typo"])
