"""Reading findings for advisers."""

from __future__ import annotations

from collections.abc import Iterator

from separatrix.analysis import Diagnosis
from separatrix.runs import Finding


def every(diagnosis: Diagnosis) -> Iterator[Finding]:
    """Every finding, each followed by its symptoms."""
    for finding in diagnosis.findings:
        yield finding
        yield from finding.symptoms


def of(diagnosis: Diagnosis, *codes: str) -> Iterator[Finding]:
    """Findings of these codes that are no symptoms of others: mending the cause comes first."""
    return (finding for finding in diagnosis.findings if finding.code in codes)


def value(finding: Finding, name: str) -> float | None:
    """A number of the evidence; None without."""
    found = finding.evidence.get(name)
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None
