"""Batches so small that a step follows the noise of a few examples and the loss no longer falls.

Losses of single examples scatter by about their mean, so that the loss of a batch of B independent examples scatters by
1 / sqrt(B) of it. It is a finding when, in the last part of the run,

- neighbouring losses scatter by at least a third of their mean, which is what nine independent examples give, and the
  recorded batches hold at most 16 examples (sequences and images count many rows each, so that a batch of few of them
  may be large: the scatter tells); or the noise scale of the gradient is at least thirty times the batch, so that
  noise is thirty times the signal in a step's squared length; and
- the loss is above 30 % of its start, and did not fall by more than two standard errors in the second half: what a step
  gains, noise takes away. As long as the loss falls, small batches are merely many steps.

Larger batches and lower learning rates are two cures for it; this rule speaks where the batch is the smaller of usual
ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.progress import PARTS, progress
from separatrix.analysis.trends import learning_rate, median_of, number, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_SCATTER = 1 / 3
_MOST = 16
_NOISY = 30.0
_UNFINISHED = 0.3
_SURE = 2.0
_WANTED = 32


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for the batches of the run."""
    loss, batch = progress(run), median_of(run, "batch_size")
    if loss is None or batch is None:
        return NotAssessed(rule.code, ("enough values of one loss without negative values, and batch_size",))
    noise = noise_scale(run)
    scatter = loss.noise / loss.end if loss.end > 0 else 0.0
    few = scatter >= _SCATTER and batch <= _MOST
    noisy = noise is not None and noise >= _NOISY * batch and scatter >= _SCATTER / 2
    gain, sure = loss.gain(PARTS // 2 - 1, PARTS - 1)
    if not (few or noisy) or not loss.left > _UNFINISHED or (sure > _SURE and gain > 0):
        return []
    wanted = max(_WANTED, noise / 4 if noise is not None else 0.0, 4 * batch)
    rate = learning_rate(run, None)
    lower = f", or lower the learning rate from {number(rate)} to {number(rate * batch / wanted)}" if rate else ""
    scale = f"; the gradient's noise scale is {number(noise)} examples" if noise is not None else ""
    return [
        Finding(
            code=rule.code,
            severity="warning",
            confidence=0.85 if few and batch <= 4 else 0.7,
            step=None,
            summary=(
                f"Batches of {number(batch)} are so noisy that the loss no longer falls: it scatters by {scatter:.0%}"
                f" around {number(loss.end)}, {loss.left:.0%} of its start{scale}."
            ),
            remedy=f"Use batches of {number(wanted)} or accumulate the gradients of as many examples{lower}.",
            evidence={
                "series": [n for n in ("loss", "batch_size", "gradient_noise_scale") if n in run],
                "labels": [],
                "batch_size": batch,
                "suggested": wanted,
                "scatter": scatter,
                "gradient_noise_scale": noise,
                "loss_left": loss.left,
            },
            source=rule.source,
        )
    ]


def noise_scale(run: Run) -> float | None:
    """Median of the gradient noise scale over what was measured, in examples; None without."""
    values = [t.finite().values for t in tracks(run, "gradient_noise_scale")]
    joined = np.concatenate(values) if values else np.empty(0)
    return float(np.median(joined)) if joined.size else None


rule = FindingRule(
    code="batch-too-small",
    title="Batches are too small",
    needs=("loss", "batch_size"),
    source="McCandlish et al. 2018, arXiv:1812.06162",
    assess=assess,
    caused_by=("unnormalized-inputs", "missing-zero-grad", "bad-init", "nonfinite"),
)
