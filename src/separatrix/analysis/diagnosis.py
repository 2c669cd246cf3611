"""Runs every rule over a run and gathers what they say."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from separatrix.analysis.findings import rules
from separatrix.analysis.ranking import ranked, worst_severity
from separatrix.runs import Finding, FindingRule, NotAssessed, Run, SeriesData, Severity


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What is wrong or remarkable with a run.

    `findings` are ranked, gravest first, each with its symptoms folded in; `not_assessed` names what could not be
    judged and what it misses.
    """

    run: str
    findings: tuple[Finding, ...] = ()
    not_assessed: tuple[NotAssessed, ...] = ()

    @property
    def worst(self) -> Severity | None:
        """The gravest severity among findings and their symptoms; None if nothing was found."""
        return worst_severity(self.findings)

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of all findings, each followed by its symptoms' codes."""
        return tuple(f.code for finding in self.findings for f in (finding, *finding.symptoms))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: NaN becomes null, infinities the strings "inf" and "-inf"."""
        return {
            "run": self.run,
            "findings": [_finding(finding) for finding in self.findings],
            "not_assessed": [{"code": entry.code, "missing": list(entry.missing)} for entry in self.not_assessed],
        }


def diagnose(run: Run | str | os.PathLike[str]) -> Diagnosis:
    """What is wrong or remarkable with a run, ranked, with evidence and remedy.

    Raises:
        RunUnreadableError: the path holds no run, or a damaged one.
        MemberError: two installed rules share a code.
    """
    path, rank = (run.path, run.rank) if isinstance(run, Run) else (run, 0)
    with _CachedRun(path, rank=rank) as opened:
        return assess(opened, rules().values())


def assess(run: Run, chosen: Iterable[FindingRule]) -> Diagnosis:
    """The diagnosis that the chosen rules give; a rule that raises counts as not assessed, with its error."""
    rules_in_order = sorted(chosen, key=lambda rule: rule.code)
    findings: list[Finding] = []
    not_assessed: list[NotAssessed] = []
    for rule in rules_in_order:
        outcome = _outcome(rule, run)
        if isinstance(outcome, NotAssessed):
            not_assessed.append(outcome)
        else:
            findings.extend(outcome)
    causes = {rule.code: rule.caused_by for rule in rules_in_order}
    return Diagnosis(run.name, ranked(findings, causes), tuple(not_assessed))


class _CachedRun(Run):
    """A run whose series are read once, since many rules look at the same ones."""

    def __init__(self, path: str | os.PathLike[str], *, rank: int = 0) -> None:
        super().__init__(path, rank=rank)
        self._cached = functools.cache(super().series)

    def series(self, name: str) -> SeriesData:
        return self._cached(name)


def _outcome(rule: FindingRule, run: Run) -> tuple[Finding, ...] | NotAssessed:
    missing = tuple(name for name in rule.needs if name not in run)
    if missing:
        return NotAssessed(rule.code, missing)
    # Rules meet runs that nobody foresaw; one that fails must not hide what the others see.
    try:
        with np.errstate(all="ignore"):
            outcome = rule.assess(run)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return NotAssessed(rule.code, (f"internal error: {reason}",))
    return outcome if isinstance(outcome, NotAssessed) else tuple(outcome)


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "severity": finding.severity,
        "confidence": _plain(finding.confidence),
        "step": _plain(finding.step),
        "summary": finding.summary,
        "evidence": _plain(finding.evidence),
        "remedy": finding.remedy,
        "symptoms": [_finding(symptom) for symptom in finding.symptoms],
        "source": finding.source,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
