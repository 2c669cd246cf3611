"""Attention becomes one-hot: the entropy of most heads goes to zero, and training suffers.

A head has collapsed when the mean entropy of its attention, in the median of its last three measurements, is below 0.2
nats, that of one key with 95 % of the attention and one with the rest. At the usual initialisation attention is nearly
uniform, with an entropy of about the log of the number of keys. A head that has only one key to see has entropy 0
always, and says nothing. It counts when at least half of the heads have collapsed, as measured after the first quarter
of the run.

Sharp attention is also what trained heads do that copy or count, and then the loss is low. So it is a warning only if
they were one-hot in the first tenth of the run, before anything was learnt, or training suffers: the loss ends above
half of its start, or jumped (its largest value after the collapse exceeds twice the level at the collapse). Else info.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.heads import heads, modules_of
from separatrix.analysis.trends import end_points, learning_rate, listed, loss_tracks, number, smoothed, start, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_NATS = 0.2
_ONE_KEY = 1e-6
_MOST = 0.5
_NOT_LEARNT = 0.5
_JUMP = 2.0
_RECENT = 3
_EARLY = 0.1
_LATE = 0.25


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for all collapsed heads."""
    last = max((int(track.steps[-1]) for track in tracks(run, "loss") if len(track)), default=0)
    measured = tuple(track for track in heads(run, "attention_entropy", 1) if int(track.steps[-1]) >= _LATE * last)
    if not measured:
        return NotAssessed(rule.code, ("attention_entropy late in the run",))
    measured = tuple(track for track in measured if float(track.values.max()) > _ONE_KEY)
    threshold = _NATS
    collapsed = [track for track in measured if float(np.median(track.values[-_RECENT:])) < threshold]
    if not collapsed or len(collapsed) < _MOST * len(measured):
        return []
    onsets = [int(track.steps[min(_last_above(track.values, threshold) + 1, len(track) - 1)]) for track in collapsed]
    step = int(np.median(onsets))
    first, end = (float(np.median([track.values[at] for track in collapsed])) for at in (0, -1))
    suffers, losses = _suffers(run, step)
    early = [track for track in collapsed if track.steps[0] <= _EARLY * last and track.values[0] < threshold]
    suffers = suffers or len(early) >= _MOST * len(measured)
    rate = learning_rate(run, step)
    names = modules_of([track.label for track in collapsed])
    lower = f"lower the learning rate (now {number(rate)}, try {number(rate / 3)}) or warm it up; " if rate else ""
    level = f"; the loss went from {number(losses[0])} to {number(losses[1])}" if losses else ""
    return [
        Finding(
            code=rule.code,
            severity="warning" if suffers else "info",
            confidence=0.85 if suffers else 0.6,
            step=step,
            summary=(
                f"Attention has become one-hot in {len(collapsed)} of {len(measured)} heads ({listed(names)}): their"
                f" entropy {'fell from' if first > 2 * threshold else 'was'} {number(first)}"
                f" {'to' if first > 2 * threshold else 'nats at first, is'} {number(end)} nats{level}."
            ),
            remedy=(
                "Check the scale 1/sqrt(head width) of the logits, normalise queries and keys, or bound the norm of"
                f" their weights; {lower}entropy below {number(threshold)} nats leaves other keys no gradient."
            ),
            evidence={
                "series": ["attention_entropy", *(["loss"] if "loss" in run else [])],
                "labels": [track.label for track in collapsed],
                "entropy_first": first,
                "entropy_end": end,
                "threshold": threshold,
                "heads": len(measured),
                "collapsed_heads": len(collapsed),
            },
            source=rule.source,
        )
    ]


def _last_above(values: np.ndarray, threshold: float) -> int:
    above = np.flatnonzero(values >= threshold)
    return int(above[-1]) if above.size else -1


def _suffers(run: Run, step: int) -> tuple[bool, tuple[float, float] | None]:
    """Whether the loss ends high or jumped after a step; its start and end."""
    losses, _ = loss_tracks(run)
    if not losses:
        return False, None
    loss = losses[0]
    began, end = float(start(loss).mean()), float(np.median(loss.values[-end_points(len(loss)) :]))
    level = smoothed(loss.values, 5)
    after = level[loss.steps > step]
    at = loss.before(step + 1)
    jumped = bool(after.size and len(at) and after.max() > _JUMP * float(np.median(at.values[-10:])) > 0.0)
    return bool(end > _NOT_LEARNT * began or (jumped and end > _NOT_LEARNT * _NOT_LEARNT * began)), (began, end)


rule = FindingRule(
    code="attention-entropy-collapse",
    title="Attention entropy collapses",
    needs=("attention_entropy",),
    source="Zhai et al. 2023, arXiv:2303.06296",
    assess=assess,
    caused_by=("attention-logit-growth", "lr-too-high", "unnormalized-inputs", "missing-zero-grad", "bad-init"),
)
