"""Learning rate: down to where steps are stable and small, up to where they move the weights."""

from __future__ import annotations

from collections.abc import Sequence

from separatrix.analysis import Diagnosis
from separatrix.analysis.progress import highest, rates, relative_step
from separatrix.analysis.trends import Track, number
from separatrix.runs import Finding, Run
from separatrix.steer.advice._findings import of, value
from separatrix.steer.advice._limits import Limits, limits
from separatrix.steer.advice._types import Advice, Adviser, Expected

_BLOWN = ("diverging", "exploding-gradient", "loss-spike", "dead-units", "saturated-units")
_UNITS = ("dead-units", "saturated-units")
_LOWER = 0.1
_LONG_STEP = 5e-3
"""Share of its size by which a step may move a weight where the rate was too high, as in the finding on that."""
_LEAST_ROOM = 3.0
"""Curvature of single batches scatters within this factor."""


def assess(run: Run, diagnosis: Diagnosis) -> Sequence[Advice]:
    """Advice from findings about the rate, or about what too high a rate usually brings; else from its limits."""
    for finding in of(diagnosis, "lr-too-high", "lr-too-low"):
        before, after = value(finding, "learning_rate"), value(finding, "suggested")
        if before and after:
            return [_towards(finding, before, after)]
    for finding in of(diagnosis, *_BLOWN):
        rate = rates(run)
        if rate is not None and highest(rate) > 0 and not (finding.code in _UNITS and _from_start(run, finding)):
            return [_lowered(finding, highest(rate), _factor(run, rate, finding.step))]
    found = None if any(f.severity != "info" for f in diagnosis.findings) else limits(run)
    return [_raised(found)] if found is not None and found.room >= _LEAST_ROOM else []


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


def _from_start(run: Run, finding: Finding) -> bool:
    """Whether units were so before any step could make them so."""
    steps = [run.series(name).steps for name in finding.evidence.get("series", ()) if name in run]
    return finding.step is None or any(len(found) and finding.step <= found[0] for found in steps)


def _factor(run: Run, rate: Track, seen: int | None) -> float:
    """A tenth, or less where the first steps before the finding were so long that a tenth of them is long too."""
    # The first step is from the weights as they began, whatever was found in it.
    before = None if seen is None else max(seen, int(rate.steps[0]) + 1)
    step = relative_step(run, rate, early=True, before=before)
    return min(_LOWER, _LONG_STEP / step) if step else _LOWER


def _lowered(finding: Finding, rate: float, factor: float) -> Advice:
    return Advice(
        action=f"Lower the learning rate from {number(rate)} to {number(rate * factor)}.",
        setting="learning_rate",
        before=rate,
        after=rate * factor,
        expected=None,
        evidence={"finding": finding.summary},
        source=finding.source,
        confidence=0.5 * finding.confidence,
        finding=finding.code,
    )


def _raised(found: Limits) -> Advice:
    factor, edge = found.room, found.edge
    return Advice(
        action=f"Raise the learning rate from {number(found.rate)} to {number(found.rate * factor)}.",
        setting="learning_rate",
        before=found.rate,
        after=found.rate * factor,
        expected=None
        if edge is None
        else Expected("learning rate times curvature, over what is stable", edge, edge * factor),
        evidence={"fell_in_second_half": found.fell, "held_up_by_noise": found.noise, "stability_ratio": edge},
        source="Cohen et al. 2021, arXiv:2103.00065; Mandt et al. 2017, arXiv:1704.04289",
        confidence=0.5,
    )


adviser = Adviser("learning-rate", "the learning rate at which steps are stable and large enough", assess)
