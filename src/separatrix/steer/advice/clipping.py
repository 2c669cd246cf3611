"""Clipping: a limit that only the rare large gradient exceeds."""

from __future__ import annotations

from collections.abc import Sequence

from separatrix.analysis import Diagnosis
from separatrix.analysis.trends import number
from separatrix.runs import Run
from separatrix.steer.advice._findings import of, value
from separatrix.steer.advice._types import Advice, Adviser, Expected


def assess(run: Run, diagnosis: Diagnosis) -> Sequence[Advice]:
    """Advice where clipping is always active."""
    del run
    for finding in of(diagnosis, "clipping-always-active"):
        after = value(finding, "suggested")
        factor, norm = value(finding, "median_factor"), value(finding, "median_norm")
        if after is None:
            continue
        before = factor * norm if factor is not None and norm is not None else None
        return [
            Advice(
                action=f"Clip gradients at a norm of {number(after)}.",
                setting="clip_norm",
                before=before,
                after=after,
                expected=Expected("share of the gradients that are cut", value(finding, "share_of_steps"), 0.1),
                evidence={"median_factor": factor, "median_norm": norm},
                source=finding.source,
                confidence=finding.confidence,
                finding=finding.code,
            )
        ]
    return []


adviser = Adviser("clipping", "a limit to gradients that a tenth of them exceed", assess)
