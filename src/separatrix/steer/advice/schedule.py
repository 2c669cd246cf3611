"""Schedule: a decay to zero over the whole training, and the loss that it is forecast to end at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis import Diagnosis
from separatrix.analysis.forecasting import Curve, curve_of, forecast
from separatrix.analysis.trends import number
from separatrix.runs import Finding, Run
from separatrix.runs.errors import SeparatrixError
from separatrix.steer.advice._findings import of
from separatrix.steer.advice._limits import limits
from separatrix.steer.advice._types import Advice, Adviser, Expected
from separatrix.steer.outlook import planned_rates
from separatrix.steer.schedules import best_base_rate

_SOURCE = "Defazio et al. 2023, arXiv:2310.07831; Tissue et al. 2024, arXiv:2408.11029, equation 1"
_WORTH = 0.005
_HALF = 0.5
_CONSTANT = 0.9
_DRAWS = 60


def assess(run: Run, diagnosis: Diagnosis) -> Sequence[Advice]:
    """Advice on a misused schedule; else on one that is missing and would pay, for a run that has nothing graver."""
    try:
        curve = curve_of(run)
    except SeparatrixError:
        return []
    for finding in of(diagnosis, "scheduler-misuse"):
        return [_advice(curve, None, finding)]
    if any(finding.severity != "info" for finding in diagnosis.findings) or not len(curve.rates):
        return []
    if curve.rates[-1] >= _CONSTANT * curve.rates.max():
        found = limits(run)
        return [_advice(curve, _by_the_bound(curve), None)] if found is not None and found.decay_pays else []
    try:
        expected = _by_forecast(curve)
    except SeparatrixError:
        return []
    better = expected.before is not None and expected.after < (1 - _WORTH) * expected.before
    return [_advice(curve, expected, None)] if better and curve.rates[-1] > 0 else []


def _advice(curve: Curve, expected: Expected | None, finding: Finding | None) -> Advice:
    peak, warmup = float(curve.rates.max()), min(curve.warmup, len(curve.rates) // 10)
    return Advice(
        action=(
            f"Let the learning rate fall linearly from {number(peak)} to zero over the {len(curve.rates)} steps"
            f"{f', after a warm-up of {warmup}' if warmup else ''}."
        ),
        setting="schedule",
        before=f"misused: {finding.evidence['how']}" if finding is not None else _named(curve),
        after="linear",
        expected=expected,
        evidence={"peak": peak, "last": float(curve.rates[-1]), "steps": len(curve.rates), "warmup": warmup},
        source=finding.source if finding is not None else _SOURCE,
        confidence=finding.confidence if finding is not None else _HALF,
        finding=finding.code if finding is not None else "",
    )


def _named(curve: Curve) -> str:
    last, peak = float(curve.rates[-1]), float(curve.rates.max())
    return "constant" if last >= _CONSTANT * peak else f"ends at {number(last / peak)} of the peak"


def _by_forecast(curve: Curve) -> Expected:
    """Final losses by the law fitted to the run itself, which has seen a part of an annealing."""
    steps = len(curve.rates)
    found = forecast([curve], planned_rates(curve, steps, "linear"), steps, draws=_DRAWS)
    now = float(found.fitted.predict(curve.rates)[-1])
    final, low, high = found.final
    return Expected("final loss", now, final, low, high)


def _by_the_bound(curve: Curve) -> Expected:
    """Bounds of the last iterate's excess loss, each at its best rate: all that a run without annealing can tell."""
    steps = len(curve.rates)
    linear = 1.0 - np.arange(steps) / steps
    flat, falling = (best_base_rate(factors).bound for factors in (np.ones(steps), linear))
    return Expected("worst-case bound on the excess loss, over that of a constant rate", 1.0, falling / flat)


adviser = Adviser("schedule", "a decay to zero at the end of the training", assess)
