"""Clipping cuts nearly every gradient, far below its size: it sets the step's length instead of guarding it.

Clipping is meant for the rare large gradient (Pascanu et al. 2013 put the threshold at the usual norm or above). It is
always active when at least 95 % of the steps after the first tenth of the run are cut. By how much decides:

- a median factor of 0.1 or less: the optimizer sees a tenth of the gradient, whatever it is. SGD then takes steps of
  fixed length, ten times shorter than its learning rate says, and does not slow down near a minimum; Adam loses the
  weight that a batch of large gradient should have. A warning.
- between 0.1 and 0.3: worth knowing. Above, clipping and learning rate are of one scale, as is usual in language
  models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.trends import Track, learning_rate, number, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_ALWAYS = 0.95
_STRONG = 0.1
_NOTABLE = 0.3
_CUT = 0.999
_FEWEST = 30
_SKIPPED = 0.1
_RARE = 0.9


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for the optimizer whose gradients are cut most."""
    found = [_settled(track.finite()) for track in tracks(run, "clip_coefficient")]
    found = [track for track in found if len(track) >= _FEWEST]
    if not found:
        return NotAssessed(rule.code, (f"at least {_FEWEST} values of clip_coefficient",))
    cut = [t for t in found if (t.values < _CUT).mean() >= _ALWAYS and np.median(t.values) <= _NOTABLE]
    if not cut:
        return []
    worst = min(cut, key=lambda track: float(np.median(track.values)))
    share, factor = float((worst.values < _CUT).mean()), float(np.median(worst.values))
    first = int(tracks(run, "clip_coefficient")[0].steps[0])
    norms = _norms(run, worst)
    usual = f" (median norm {number(float(np.median(norms)))})" if norms.size else ""
    return [
        Finding(
            code=rule.code,
            severity="warning" if factor <= _STRONG else "info",
            confidence=0.9 if factor <= _STRONG else 0.7,
            step=first,
            summary=(
                f"Clipping cuts {share:.0%} of the gradients, to {number(factor)} of their size in the median{usual}."
            ),
            remedy=_remedy(run, factor, norms),
            evidence={
                "series": [name for name in ("clip_coefficient", "gradient_norm") if name in run],
                "labels": [worst.label] if worst.label else [],
                "share_of_steps": share,
                "median_factor": factor,
                "median_norm": float(np.median(norms)) if norms.size else None,
                "suggested": _limit(norms),
            },
            source=rule.source,
        )
    ]


def _settled(track: Track) -> Track:
    skipped = int(_SKIPPED * len(track))
    return Track(track.label, track.steps[skipped:], track.values[skipped:])


def _norms(run: Run, clip: Track) -> np.ndarray:
    same = [track.finite() for track in tracks(run, "gradient_norm") if track.label == clip.label]
    return same[0].values if same else np.empty(0)


def _limit(norms: np.ndarray) -> float | None:
    """The norm that a tenth of the gradients exceed."""
    return float(np.quantile(norms, _RARE)) if norms.size else None


def _remedy(run: Run, factor: float, norms: np.ndarray) -> str:
    rate = learning_rate(run, None)
    adapts = "beta2" in run
    wanted = _limit(norms)
    limit = (
        f"Clip at {number(wanted)}, above which a tenth of the gradients of this run are"
        if wanted is not None
        else f"Raise the limit {number(1 / factor)}-fold or more"
    )
    if adapts or rate is None:
        return f"{limit}, or do without clipping."
    return f"{limit}; the learning rate {number(rate)} now acts as {number(rate * factor)}, so choose it anew."


rule = FindingRule(
    code="clipping-always-active",
    title="Clipping is always active",
    needs=("clip_coefficient",),
    source="Pascanu et al. 2013, arXiv:1211.5063, section 3.2",
    assess=assess,
    caused_by=("exploding-gradient", "bad-init", "unnormalized-inputs", "missing-zero-grad", "diverging"),
)
