"""The order of findings and the folding of symptoms."""

from __future__ import annotations

import itertools
from typing import Any

from separatrix.analysis.ranking import ranked, worst_severity
from separatrix.runs import Finding


def finding(code: str, severity: Any = "warning", confidence: float = 0.5, step: int | None = 0) -> Finding:
    return Finding(code, severity, confidence, summary=code, remedy="-", step=step)


def test_order_is_severity_then_confidence_then_step_then_code() -> None:
    expected = [
        finding("e", "error", 0.2, 9),
        finding("w1", confidence=0.9, step=7),
        finding("w2", confidence=0.5, step=None),
        finding("b", confidence=0.5, step=3),
        finding("c", confidence=0.5, step=3),
        finding("i", "info", 1.0, 0),
    ]
    for order in itertools.permutations(expected):
        assert list(ranked(order, {})) == expected


def test_a_chain_is_folded_under_its_root_which_counts_as_severe_as_its_worst_symptom() -> None:
    causes = {"nan": ("diverged",), "diverged": ("inputs",)}
    found = [
        finding("other", "warning", 1.0),
        finding("nan", "error", 1.0, 9),
        finding("diverged", step=5),
        finding("inputs"),
    ]
    first, second = ranked(found, causes)
    assert (first.code, second.code) == ("inputs", "other")
    assert [symptom.code for symptom in first.symptoms] == ["nan", "diverged"]
    assert first.severity == "error"
    assert worst_severity([first]) == "error"


def test_a_later_cause_explains_nothing() -> None:
    found = ranked([finding("symptom", step=3), finding("cause", step=4)], {"symptom": ("cause",)})
    assert [f.symptoms for f in found] == [(), ()]


def test_findings_that_name_each_other_are_folded_once_under_the_earlier() -> None:
    causes = {"a": ("b",), "b": ("a",)}
    (root,) = ranked([finding("a", step=4), finding("b", step=2)], causes)
    assert (root.code, [s.code for s in root.symptoms]) == ("b", ["a"])
    (root,) = ranked([finding("b", confidence=0.4), finding("a", confidence=0.6)], causes)
    assert (root.code, [s.code for s in root.symptoms]) == ("a", ["b"])


def test_a_ring_of_three_keeps_every_finding_exactly_once() -> None:
    causes = {"a": ("c",), "b": ("a",), "c": ("b",)}
    found = ranked([finding(code, step=None) for code in "abc"], causes)
    assert sorted(f.code for root in found for f in (root, *root.symptoms)) == ["a", "b", "c"]


def test_a_cause_with_a_step_counts_before_one_of_the_whole_run() -> None:
    """Dead units give zero gradients (seen at every step) and one answer for all, which each explains the others."""
    caused_by = {"frozen": ("dead",), "dead": ("collapsed",), "collapsed": ("frozen", "dead")}
    findings = [finding("frozen", step=None), finding("dead", "error", step=1), finding("collapsed", step=1)]
    (root,) = ranked(findings, caused_by)
    assert (root.code, {f.code for f in root.symptoms}) == ("dead", {"frozen", "collapsed"})
    (root,) = ranked([findings[0], findings[2]], caused_by)
    assert root.code == "frozen"


def test_causes_come_before_findings_that_stand_alone() -> None:
    found = ranked([finding("alone", confidence=1.0), finding("cause"), finding("s")], {"s": ("cause",)})
    assert [f.code for f in found] == ["cause", "alone"]
