"""Gradients of earlier steps are still there when a new step begins.

`gradient_carryover` is what `.grad` held before the first backward since the last step or zero_grad; it is zero in
any loop that clears gradients, with accumulation over several backwards too. Without clearing, the gradient at step t
is the sum of all gradients so far, so the carried part is of the order of the whole: after the second step their
ratio stays near 1. A parameter counts when carry-over is at least a tenth of its gradient (ten times less than the
fault gives, and infinitely more than a correct loop) at half or more of its measurements. The first step of a run has
nothing to carry and does not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.profiles import table
from separatrix.analysis.trends import listed, number
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_SHARE_OF_GRADIENT = 0.1
_SHARE_OF_STEPS = 0.5
_MOST = 0.5


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for all parameters whose gradients are carried over."""
    carried, gradients = table(run, "gradient_carryover"), table(run, "gradient_rms")
    first = int(run.series("loss").steps[0]) if "loss" in run else int(carried.steps[0])
    ratios: dict[str, float] = {}
    onset: list[int] = []
    measured = 0
    for label in carried.labels:
        steps, carry = carried.column(label)
        at, gradient = gradients.column(label)
        steps, here, there = np.intersect1d(steps, at, return_indices=True)
        later = (steps > first) & np.isfinite(carry[here]) & np.isfinite(gradient[there])
        carry, gradient, steps = carry[here][later], gradient[there][later], steps[later]
        measured += len(steps)
        kept = (carry > 0) & (carry >= _SHARE_OF_GRADIENT * gradient)
        if kept.size and kept.mean() >= _SHARE_OF_STEPS:
            ratios[label] = float(np.median(carry[kept] / np.maximum(gradient[kept], np.finfo(np.float64).tiny)))
            onset.append(int(steps[kept][0]))
    if not measured:
        return NotAssessed(rule.code, ("gradient_carryover and gradient_rms after the first step",))
    if not ratios:
        return []
    share = len(ratios) / len(carried.labels)
    ratio = float(np.median(list(ratios.values())))
    which = (
        "all parameters"
        if share == 1
        else f"{len(ratios)} of {len(carried.labels)} parameters ({listed(list(ratios))})"
    )
    return [
        Finding(
            code=rule.code,
            severity="error" if share >= _MOST else "warning",
            confidence=0.97 if measured >= 3 * len(carried.labels) else 0.8,
            step=min(onset),
            summary=f"Gradients are not cleared between steps: in {which}, {number(ratio)} of them is left over.",
            remedy="Call optimizer.zero_grad() once per step, for all its parameters, before the first backward.",
            evidence={
                "series": ["gradient_carryover", "gradient_rms"],
                "labels": list(ratios),
                "carryover_ratio": ratio,
                "share_of_parameters": share,
            },
            source=rule.source,
        )
    ]


rule = FindingRule(
    code="missing-zero-grad",
    title="Gradients are not cleared",
    needs=("gradient_carryover", "gradient_rms"),
    source="torch.optim documentation: backward adds to .grad; clearing it is the loop's task",
    assess=assess,
)
