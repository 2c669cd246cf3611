"""The learning rate is so low that the weights hardly move, and the loss with them.

How far weights could come is their path: the median over weights of update over weight (update_ratio, from the
measurements at hand; with momentum divided by the part of its sum that has built up by then), times the sum of the
learning rates of all steps over the one measured at. A network whose loss is to fall must change its outputs by their
own size; weights of a common initialisation do that when they move by some tenths of theirs. Trainings that learn have
paths above 0.4, most of them above 2; rates a hundred times too low have paths below 0.05.

The rule speaks where the loss is still above half of its start and

- the path is below 0.1: no direction of movement could have got far. A loss that fell and then slowed down to less than
  a quarter of the first half's gain did get somewhere, and is left alone, unless it lost less than 10 %; or
- the path is below 0.5, a step moves the weights by less than 3e-4 (a third of the usual lower end, 1e-3), and the loss
  falls as on a line: by at least 60 % of the first half's gain in the second half, and by at least five standard
  errors.

A schedule that cut the rate to less than a tenth of its peak over most of the run is the schedule's fault.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.progress import PARTS, highest, progress, rates, relative_step, typical
from separatrix.analysis.trends import number, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_UNFINISHED = 0.5
_STILL = 0.1
_SLOWING = 0.25
_NOTHING = 0.9
_SLOW = 0.5
_SMALL_STEP = 3e-4
_LINEAR = 0.6
_SURE = 5.0
_USUAL = 1e-3
_SCHEDULED = 0.1
_FAR_FROM_EDGE = 0.1


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for the optimizer's learning rate."""
    loss, rate = progress(run), rates(run)
    ratio = None if rate is None else relative_step(run, rate)
    if loss is None or rate is None or ratio is None:
        return NotAssessed(rule.code, ("loss, learning_rate and update_ratio of weights over enough steps",))
    peak = highest(rate)
    if not loss.left > _UNFINISHED or peak <= 0 or np.median(rate.values) < _SCHEDULED * peak:
        return []
    now = typical(rate)
    path = ratio * float(rate.values.sum()) / now if now > 0 else 0.0
    first, _ = loss.gain(0, PARTS // 2 - 1)
    second, sure = loss.gain(PARTS // 2, PARTS - 1)
    linear = first > 0 and second >= _LINEAR * first and sure >= _SURE
    slows = 0 < second < _SLOWING * first or second <= 0 < first
    still = path < _STILL and (not slows or loss.left > _NOTHING)
    if not (still or (path < _SLOW and ratio < _SMALL_STEP and linear)):
        return []
    edge = _edge(run)
    raise_by = _USUAL / ratio if ratio > 0 else 1000.0
    if edge is not None and edge > 0:
        raise_by = min(raise_by, 0.5 / edge)
    suggested = peak * max(raise_by, 3.0)
    return [
        Finding(
            code=rule.code,
            severity="warning",
            confidence=0.9 if path < _STILL / 3 and linear else 0.75,
            step=None,
            summary=(
                f"A step moves the weights by {number(ratio)} of their size, all {len(rate)} steps by {number(path)} at"
                f" most, and the loss is still at {loss.left:.0%} of its start."
            ),
            remedy=_remedy(peak, suggested, None if edge is None or edge <= 0 else (now or peak) / edge),
            evidence={
                "series": [n for n in ("loss", "learning_rate", "update_ratio", "stability_ratio") if n in run],
                "labels": [],
                "update_ratio": ratio,
                "path": path,
                "loss_left": loss.left,
                "falls_linearly": linear,
                "stability_ratio": edge,
                "learning_rate": peak,
                "suggested": suggested,
            },
            source=rule.source,
        )
    ]


def _edge(run: Run) -> float | None:
    values = np.concatenate([t.finite().values for t in tracks(run, "stability_ratio")] or [np.empty(0)])
    return float(np.median(values)) if values.size else None


def _remedy(rate: float, suggested: float, borne: float | None) -> str:
    far = borne is not None and borne > rate / _FAR_FROM_EDGE
    measured = f"; the measured curvature bears {number(borne)}" if borne is not None and far else ""
    return (
        f"Raise the learning rate from {number(rate)} towards {number(suggested)}, at which a step"
        f" moves the weights by about a thousandth of their size{measured}."
    )


rule = FindingRule(
    code="lr-too-low",
    title="The learning rate is too low",
    needs=("loss", "learning_rate"),
    source="Bengio 2012, arXiv:1206.5533, section 3.1.1; Smith 2017, arXiv:1506.01186",
    assess=assess,
    caused_by=(
        "scheduler-misuse",
        "clipping-always-active",
        "epsilon-underflow",
        "vanishing-gradient",
        "dead-units",
        "saturated-units",
        "bad-init",
        "unnormalized-inputs",
        "frozen-parameters",
        "weight-decay-dominates",
    ),
)
