"""Weight decay: down to a twentieth of what the loss asks for."""

from __future__ import annotations

from collections.abc import Sequence

from separatrix.analysis import Diagnosis
from separatrix.analysis.trends import number
from separatrix.runs import Run
from separatrix.steer.advice._findings import of, value
from separatrix.steer.advice._types import Advice, Adviser, Expected


def assess(run: Run, diagnosis: Diagnosis) -> Sequence[Advice]:
    """Advice where weight decay dominates."""
    del run
    for finding in of(diagnosis, "weight-decay-dominates"):
        before, after = value(finding, "weight_decay"), value(finding, "suggested")
        ratio = value(finding, "ratio")
        if not before or after is None or not ratio:
            continue
        return [
            Advice(
                action=f"Lower weight_decay from {number(before)} to {number(after)}.",
                setting="weight_decay",
                before=before,
                after=after,
                expected=Expected("pull of the decay, over that of the loss", ratio, ratio * after / before),
                evidence={"ratio": ratio, "weights_left": value(finding, "weights_left")},
                source=finding.source,
                confidence=finding.confidence,
                finding=finding.code,
            )
        ]
    return []


adviser = Adviser("weight-decay", "a decay that pulls less than the loss", assess)
