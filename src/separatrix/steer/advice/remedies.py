"""Remedies of findings that no number mends: the code, the data or the model must change."""

from __future__ import annotations

from collections.abc import Sequence

from separatrix.analysis import Diagnosis
from separatrix.runs import Run
from separatrix.steer.advice._types import Advice, Adviser

_WITH_NUMBERS = frozenset(
    (
        "lr-too-high",
        "lr-too-low",
        "batch-too-small",
        "batch-too-large",
        "weight-decay-dominates",
        "scheduler-misuse",
    )
)


def assess(run: Run, diagnosis: Diagnosis) -> Sequence[Advice]:
    """The remedy of every finding that other advisers leave to the code."""
    del run
    return [
        Advice(
            action=finding.remedy,
            setting="code",
            before=None,
            after=None,
            expected=None,
            evidence={"summary": finding.summary},
            source=finding.source,
            confidence=finding.confidence,
            finding=finding.code,
        )
        for finding in diagnosis.findings
        if finding.code not in _WITH_NUMBERS and finding.remedy
    ]


adviser = Adviser("remedies", "what no number mends", assess)
