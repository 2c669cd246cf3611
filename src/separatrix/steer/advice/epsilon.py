"""Adam's epsilon: below the size of the gradients."""

from __future__ import annotations

from collections.abc import Sequence

from separatrix.analysis import Diagnosis
from separatrix.analysis.trends import number
from separatrix.runs import Run
from separatrix.steer.advice._findings import of, value
from separatrix.steer.advice._types import Advice, Adviser, Expected


def assess(run: Run, diagnosis: Diagnosis) -> Sequence[Advice]:
    """Advice where epsilon exceeds the root of the second moment."""
    del run
    for finding in of(diagnosis, "epsilon-underflow"):
        before, after = value(finding, "epsilon"), value(finding, "suggested")
        root = value(finding, "root_of_second_moment")
        if not before or not after or not root:
            continue
        now, then = (root / (root + epsilon) for epsilon in (before, after))
        return [
            Advice(
                action=f"Lower epsilon from {number(before)} to {number(after)}.",
                setting="epsilon",
                before=before,
                after=after,
                expected=Expected("length of a step, over that without epsilon", now, then),
                evidence={"root_of_second_moment": root},
                source=finding.source,
                confidence=finding.confidence,
                finding=finding.code,
            )
        ]
    return []


adviser = Adviser("epsilon", "an epsilon that does not stand in for the second moment", assess)
