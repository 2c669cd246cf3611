"""The order in which findings are shown, and which of them are symptoms of others.

A finding is a symptom of another one when its rule names the other's code under `caused_by` and the other happened at
an earlier or the same step (a finding without a step holds for the whole run, so it precedes and follows everything).
Of several causes the earliest counts, and one that holds for the whole run only where none has a step: it may well be
a consequence. Chains are followed to their root: the root carries all its symptoms in one flat list, and is as severe
as the worst of them. Where two findings name each other as cause, the earlier one is the cause, then the one that ranks
first.

Findings, and the symptoms within each, are ordered by

1. severity (error, warning, info),
2. causes that explain something before findings that stand alone,
3. confidence, high first,
4. step, early first, findings that hold for the whole run before all,
5. code, then summary, alphabetically.

This is a total order: the same findings give the same list whatever order the rules ran in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from separatrix.runs import SEVERITIES, Finding, Severity

_Key = tuple[int, int, float, int, str, str]


def worst_severity(findings: Iterable[Finding]) -> Severity | None:
    """The gravest severity among findings and their symptoms; None if there is none."""
    severities = {f.severity for finding in findings for f in (finding, *finding.symptoms)}
    return next((severity for severity in SEVERITIES if severity in severities), None)


def ranked(findings: Sequence[Finding], caused_by: Mapping[str, tuple[str, ...]]) -> tuple[Finding, ...]:
    """The findings in order, each symptom folded under its root cause.

    `caused_by` gives, by code, the codes that explain it.
    """
    chronological = sorted(findings, key=lambda f: (_step(f), _key(f)))
    parents: dict[int, int] = {}
    dated_first = sorted(range(len(chronological)), key=lambda index: chronological[index].step is None)
    # From last to first, so that of two that name each other the earlier one is left as the cause.
    for index, finding in reversed(list(enumerate(chronological))):
        for other in dated_first:
            candidate = chronological[other]
            explains = candidate.code in caused_by.get(finding.code, ()) and _precedes(candidate, finding)
            if explains and candidate.code != finding.code and _root(other, parents) != index:
                parents[index] = other
                break
    symptoms: dict[int, list[Finding]] = {}
    for index in parents:
        symptoms.setdefault(_root(index, parents), []).append(chronological[index])
    roots = (
        _with_symptoms(finding, (*finding.symptoms, *symptoms.get(index, ())))
        for index, finding in enumerate(chronological)
        if index not in parents
    )
    return tuple(sorted(roots, key=_key))


def _with_symptoms(finding: Finding, symptoms: Sequence[Finding]) -> Finding:
    severity = worst_severity([finding, *symptoms]) or finding.severity
    return dataclasses.replace(finding, severity=severity, symptoms=tuple(sorted(symptoms, key=_key)))


def _root(index: int, parents: Mapping[int, int]) -> int:
    while index in parents:
        index = parents[index]
    return index


def _step(finding: Finding) -> int:
    return -1 if finding.step is None else finding.step


def _precedes(cause: Finding, symptom: Finding) -> bool:
    return cause.step is None or symptom.step is None or cause.step <= symptom.step


def _key(finding: Finding) -> _Key:
    severity = worst_severity([finding]) or finding.severity
    alone = 0 if finding.symptoms else 1
    return SEVERITIES.index(severity), alone, -finding.confidence, _step(finding), finding.code, finding.summary
