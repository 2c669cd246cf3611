"""Learning rate: down to where steps are stable and small, up to where they move the weights."""

from __future__ import annotations

from collections.abc import Sequence

from separatrix.analysis import Diagnosis
from separatrix.analysis.trends import learning_rate, number
from separatrix.runs import Finding, Run
from separatrix.steer.advice._findings import of, value
from separatrix.steer.advice._types import Advice, Adviser, Expected

_BLOWN = ("diverging", "exploding-gradient", "loss-spike", "dead-units")
_LOWER = 0.1


def assess(run: Run, diagnosis: Diagnosis) -> Sequence[Advice]:
    """Advice from the findings that are about the rate, or about what too high a rate usually brings."""
    for finding in of(diagnosis, "lr-too-high", "lr-too-low"):
        before, after = value(finding, "learning_rate"), value(finding, "suggested")
        if before and after:
            return [_towards(finding, before, after)]
    for finding in of(diagnosis, *_BLOWN):
        rate = learning_rate(run, None)
        if rate:
            return [_lowered(finding, rate)]
    return []


def _towards(finding: Finding, before: float, after: float) -> Advice:
    factor = after / before
    edge, step = value(finding, "stability_ratio"), value(finding, "update_ratio")
    expected = None
    if edge and (finding.code == "lr-too-high" or edge * factor > 0.1):
        expected = Expected("learning rate times curvature, over what is stable", edge, edge * factor)
    elif step:
        expected = Expected("share of its size by which a step moves a weight", step, step * factor)
    verb = "Lower" if factor < 1 else "Raise"
    return Advice(
        action=f"{verb} the learning rate from {number(before)} to {number(after)}.",
        setting="learning_rate",
        before=before,
        after=after,
        expected=expected,
        evidence={"stability_ratio": edge, "update_ratio": step},
        source=finding.source,
        confidence=finding.confidence,
        finding=finding.code,
    )


def _lowered(finding: Finding, rate: float) -> Advice:
    return Advice(
        action=f"Lower the learning rate from {number(rate)} to {number(rate * _LOWER)}.",
        setting="learning_rate",
        before=rate,
        after=rate * _LOWER,
        expected=None,
        evidence={"finding": finding.summary},
        source=finding.source,
        confidence=0.5 * finding.confidence,
        finding=finding.code,
    )


adviser = Adviser("learning-rate", "the learning rate at which steps are stable and large enough", assess)
