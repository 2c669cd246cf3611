"""The largest attention logit grows without end.

Softmax gives a key whose logit lies z below the largest at most exp(-z). Beyond z = 16 that is less than the resolution
of float32: what the key says is lost, and so is the gradient that could bring it back. Logits of queries and keys of
unit variance, scaled by the root of their width, have a standard deviation of 1, so that the largest of a thousand is
about 3 to 4 at the start, and 5 to 20 in well-trained small transformers.

It counts if, in some head, the largest logit ends above 50 (three times the resolution), has grown at least fivefold
since its first measurement, and grows with the steps (Spearman at least 0.7, over at least four measurements, and the
last third lies above the first two). Between 25 and 50 it is worth knowing. Larger runs have been seen to fail from
10,000 on; by then attention has long been one-hot.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.heads import heads, modules_of
from separatrix.analysis.trends import Track, learning_rate, listed, median_of, number
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_LARGE, _NOTABLE = 50.0, 25.0
_GREW = 5.0
_TREND = 0.7
_FEWEST = 4


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for the head whose logits grew most."""
    measured = heads(run, "attention_logit_max", _FEWEST)
    if not measured:
        return NotAssessed(rule.code, (f"attention_logit_max at {_FEWEST} steps",))
    growing = [track for track in measured if _grows(track)]
    if not growing:
        return []
    worst = max(growing, key=_end)
    first, end = float(worst.values[0]), _end(worst)
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
            confidence=0.9 if len(large) > len(measured) / 2 else 0.8,
            step=step,
            summary=(
                f"Attention logits grow: the largest of {worst.label or 'the head'} went from {number(first)} to"
                f" {number(end)}; so it is in {len(growing)} of {len(measured)} heads ({listed(names)})."
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


def _end(track: Track) -> float:
    return float(np.median(track.values[-3:]))


def _grows(track: Track) -> bool:
    values = track.values
    third = max(1, len(values) // 3)
    first, end = float(values[0]), _end(track)
    if (
        end < _NOTABLE
        or end < _GREW * max(first, 1.0)
        or np.median(values[-third:]) < values[:-third].max(initial=0.0) / 2
    ):
        return False
    ranks = np.argsort(np.argsort(values))
    return float(np.corrcoef(np.arange(len(values)), ranks)[0, 1]) >= _TREND


rule = FindingRule(
    code="attention-logit-growth",
    title="Attention logits grow without end",
    needs=("attention_logit_max",),
    source="Dehghani et al. 2023, arXiv:2302.05442; Wortsman et al. 2023, arXiv:2309.14322, section 3.1.1",
    assess=assess,
    caused_by=("lr-too-high", "attention-entropy-collapse", "unnormalized-inputs", "missing-zero-grad"),
)
