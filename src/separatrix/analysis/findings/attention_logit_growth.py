"""The largest attention logit grows without end.

Softmax gives a key whose logit lies z below the largest at most exp(-z). Beyond z = 16 that is less than the resolution
of float32: what the key says is lost, and so is the gradient that could bring it back. Logits of queries and keys of
unit variance, scaled by the root of their width, have a standard deviation of 1, so that the largest of a thousand is
about 3 to 4 at the start, and 5 to 20 in well-trained small transformers.

It counts if, in some head, the largest logit ends above 50 (three times the resolution), has grown at least fivefold
since its first measurement, and rises with the steps where four or more measurements can tell (Spearman at least 0.7).
Between 25 and 50 it is worth knowing. A single measurement, after the first quarter, is compared with 4, the
usual start, with less confidence. Larger runs have been seen to fail from 10,000 on; by then attention has long been
one-hot.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.heads import heads, modules_of
from separatrix.analysis.trends import Track, learning_rate, listed, median_of, number, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_LARGE, _NOTABLE = 50.0, 25.0
_GREW = 5.0
_TREND = 0.7
_USUAL_START = 4.0
_FEWEST_FOR_TREND = 4
_LATE = 0.25


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for the head whose logits grew most."""
    last = max((int(track.steps[-1]) for track in tracks(run, "loss") if len(track)), default=0)
    measured = tuple(t for t in heads(run, "attention_logit_max", 1) if len(t) > 1 or int(t.steps[0]) > _LATE * last)
    if not measured:
        return NotAssessed(rule.code, ("attention_logit_max at two steps, or late in the run",))
    growing = [track for track in measured if _grows(track)]
    if not growing:
        return []
    worst = max(growing, key=_end)
    first, end = _first(worst), _end(worst)
    large = [track for track in growing if _end(track) >= _LARGE]
    passed = np.flatnonzero(worst.values > min(_NOTABLE, end))
    step = int(worst.steps[passed[0]]) if passed.size else int(worst.steps[-1])
    rate, decay = learning_rate(run, step), median_of(run, "weight_decay")
    names = modules_of([track.label for track in growing])
    lower = f", or lower the learning rate (now {number(rate)}, try {number(rate / 3)})" if rate else ""
    decayed = f", or raise the weight decay of queries and keys (now {number(decay)})" if decay is not None else ""
    return [
        Finding(
            code=rule.code,
            severity="warning" if large else "info",
            confidence=(0.9 if len(large) > len(measured) / 2 else 0.8) - (0.2 if len(worst) == 1 else 0.0),
            step=step,
            summary=(
                f"Attention logits grow: the largest of {worst.label or 'the head'}"
                + (
                    f" went from {number(first)} to {number(end)}"
                    if len(worst) > 1
                    else f" is {number(end)} at step {int(worst.steps[-1])}"
                )
                + f"; so it is in {len(growing)} of {len(measured)} heads ({listed(names)})."
            ),
            remedy=(
                "Normalise queries and keys before their product (QK norm), check the scale 1/sqrt(head width)"
                f"{lower}{decayed}: logits beyond 16 are lost on float32."
            ),
            evidence={
                "series": ["attention_logit_max"],
                "labels": [track.label for track in growing],
                "first": first,
                "end": end,
                "heads": len(measured),
                "growing_heads": len(growing),
            },
            source=rule.source,
        )
    ]


def _first(track: Track) -> float:
    return float(track.values[0]) if len(track) > 1 else _USUAL_START


def _end(track: Track) -> float:
    return float(np.median(track.values[-3:])) if len(track) > _FEWEST_FOR_TREND else float(track.values[-1])


def _grows(track: Track) -> bool:
    end = _end(track)
    if end < _NOTABLE or end < _GREW * max(_first(track), 1.0):
        return False
    if len(track) < _FEWEST_FOR_TREND:
        return True
    ranks = np.argsort(np.argsort(track.values))
    return float(np.corrcoef(np.arange(len(ranks)), ranks)[0, 1]) >= _TREND


rule = FindingRule(
    code="attention-logit-growth",
    title="Attention logits grow without end",
    needs=("attention_logit_max",),
    source="Dehghani et al. 2023, arXiv:2302.05442; Wortsman et al. 2023, arXiv:2309.14322, section 3.1.1",
    assess=assess,
    caused_by=("lr-too-high", "unnormalized-inputs", "missing-zero-grad"),
)
