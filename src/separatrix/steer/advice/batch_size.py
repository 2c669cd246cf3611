"""Batch size: towards the gradient's noise scale, where steps and examples both cost twice their least."""

from __future__ import annotations

from collections.abc import Sequence

from separatrix.analysis import Diagnosis
from separatrix.analysis.trends import number
from separatrix.runs import Run
from separatrix.steer.advice._findings import of, value
from separatrix.steer.advice._types import Advice, Adviser, Expected
from separatrix.steer.batch_size import advise_batch_size, batch_cost

_APART = 8.0
"""Factor between batch size and noise scale from which on it is worth a change: the noise scale is right in a few."""


def assess(run: Run, diagnosis: Diagnosis) -> Sequence[Advice]:
    """Advice from the findings on batches; else from the noise scale, where batches are far from it."""
    noise = advise_batch_size(run)
    for finding in of(diagnosis, "batch-too-small", "batch-too-large"):
        before, after = value(finding, "batch_size"), value(finding, "suggested")
        if before and after:
            after = float(max(1, round(after)))
            expected = Expected("steps over the same examples, as a factor", 1.0, before / after)
            if noise is not None:
                now, then = (batch_cost(size, noise.noise_scale).steps for size in (before, after))
                expected = Expected("steps to the same loss, over the least possible", now, then)
            return [_change(before, after, expected, finding.source, finding.confidence, finding.code)]
    if noise is None or 1 / _APART < noise.now.batch_size / noise.noise_scale < _APART:
        return []
    larger = noise.suggested.batch_size > noise.now.batch_size
    quantity = "steps" if larger else "examples"
    before, after = (getattr(cost, quantity) for cost in (noise.now, noise.suggested))
    expected = Expected(f"{quantity} to the same loss, over the least possible", before, after)
    source = "McCandlish et al. 2018, arXiv:1812.06162, sections 2.2 and 2.3"
    return [_change(noise.now.batch_size, noise.suggested.batch_size, expected, source, 0.4, "")]


def _change(before: float, after: float, expected: Expected, source: str, confidence: float, finding: str) -> Advice:
    return Advice(
        action=f"Use batches of {number(after)} examples instead of {number(before)}.",
        setting="batch_size",
        before=before,
        after=after,
        expected=expected,
        evidence={"batch_size": before},
        source=source,
        confidence=confidence,
        finding=finding,
    )


adviser = Adviser("batch-size", "batches near the noise scale of the gradient", assess)
