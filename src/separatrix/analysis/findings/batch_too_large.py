"""Batches so large that noise does not matter, while there are too few steps.

Above the noise scale of the gradient a larger batch makes steps hardly better, only dearer (McCandlish et al. 2018).
The rule asks for a sign that batches are far above it, and for a cost:

- signs: a batch is ten times the noise scale (upper end of its interval, median of the measurements), or, where that
  is not recorded, nine of ten steps of the run lower the loss: with batches near the noise scale the loss of one batch
  scatters by more than a step gains, and about half of the differences are negative;
- cost: a batch holds at least 512 examples and four times as many as the run has steps, the loss still falls clearly
  (by at least a twentieth over the last three parts of ten, and by five standard errors), and at least 10 % of its
  start is left.

Training on all examples is usual for small data and small networks; it costs nothing where it goes on until the loss no
longer falls.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.progress import PARTS, Progress, progress
from separatrix.analysis.trends import median_of, number, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_ABOVE = 10.0
_MONOTONE = 0.9
_FEWEST_EXAMPLES = 512
_PER_STEP = 4
_FALLING = 0.05
_SURE = 5.0
_UNFINISHED = 0.1


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for the batches of the run."""
    loss, batch = progress(run), median_of(run, "batch_size")
    if loss is None or batch is None:
        return NotAssessed(rule.code, ("enough values of one loss without negative values, and batch_size",))
    if "closure_calls" in run or batch < max(_FEWEST_EXAMPLES, _PER_STEP * len(loss.track)):
        return []
    highest = [t.finite().values for t in tracks(run, "gradient_noise_scale_high")]
    bounds = np.concatenate(highest) if highest else np.empty(0)
    noise = float(np.median(bounds)) if bounds.size else None
    falls = float((np.diff(loss.track.values) < 0).mean())
    above = batch >= _ABOVE * noise if noise is not None else False
    if not (above or falls >= _MONOTONE) or not _unfinished(loss):
        return []
    known = f"; the gradient's noise scale is at most {number(noise)} examples" if noise is not None and above else ""
    smaller = max(32.0, min(batch / 16, 4 * noise if noise is not None and above else batch))
    return [
        Finding(
            code=rule.code,
            severity="warning",
            confidence=0.85 if above else 0.7,
            step=int(loss.track.steps[0]),
            summary=(
                f"Batches of {number(batch)} leave only {len(loss.track)} steps: {falls:.0%} of them lower the loss,"
                f" which still falls, at {loss.left:.0%} of its start{known}."
            ),
            remedy=(
                f"Use batches of about {number(smaller)}: the same examples then give {number(batch / smaller)} times"
                " as many steps."
            ),
            evidence={
                "series": [n for n in ("loss", "batch_size", "gradient_noise_scale_high") if n in run],
                "labels": [],
                "batch_size": batch,
                "suggested": smaller,
                "steps": len(loss.track),
                "steps_that_fall": falls,
                "gradient_noise_scale_high": noise,
                "loss_left": loss.left,
            },
            source=rule.source,
        )
    ]


def _unfinished(loss: Progress) -> bool:
    gain, sure = loss.gain(PARTS - 3, PARTS - 1)
    return loss.left > _UNFINISHED and gain >= _FALLING * float(loss.levels[-3]) and sure >= _SURE


rule = FindingRule(
    code="batch-too-large",
    title="Batches are too large",
    needs=("loss", "batch_size"),
    source="McCandlish et al. 2018, arXiv:1812.06162; Shallue et al. 2019, arXiv:1811.03600",
    assess=assess,
    caused_by=("lr-too-low", "scheduler-misuse", "clipping-always-active", "epsilon-underflow", "vanishing-gradient"),
)
