"""The loss does not fall for a long time.

The run is cut into ten equal parts, and the mean loss of each is compared with the start. While the learning rate is
below a tenth of its peak (warm-up) a flat loss means nothing: such parts are left out.

- *never*: no part's mean is below 90 % of the start, or above 150 % of it, which is another fault. Nothing was learnt
  but, at most, the mean of the targets. Nine tenths, because the start is known only from a few losses, and because
  networks start slightly above the loss of a constant answer. It may not be falling either (by 2 % and two standard
  errors in the last five parts), and a training that begins with more right answers than a constant gives (three times
  chance, in the first measurements) is a finished one. A warning.
- *at first*: at least three parts from the beginning on are above 90 % of the start and the loss then falls below half
  of it: a saddle, near which steps get nowhere (Saxe et al. 2014). It cost these steps: a warning.
- *in the end*: in the last five parts the loss did not fall by more than two standard errors or 2 %, with half of the
  start left or more. It may be as good as the model and the data allow: worth knowing.

Nothing is said where noise is too high to tell: where the standard errors of the parts exceed 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.profiles import table
from separatrix.analysis.progress import PARTS, Progress, progress, rates
from separatrix.analysis.trends import number, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run, Severity

_FLAT = 0.9
_LEAST_PARTS = 3
_FALLEN = 0.5
_STALLED = 0.02
_SURE = 2.0
_CLEAR = 0.05
_RISEN = 1.5
_WARMING = 0.1
_KNOWN = 3.0
_FEWEST = 100


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for the longest stretch without progress."""
    loss = progress(run)
    if loss is None or len(loss.track) < _FEWEST:
        return NotAssessed(rule.code, (f"at least {_FEWEST} finite values of one loss without negative values",))
    flat = int(np.argmin([*(loss.levels >= _FLAT * loss.start), False]))
    warm = _warm_parts(run, loss)
    last = float(loss.levels[-1])
    gain, sure = loss.gain(PARTS // 2, PARTS - 1)
    falls = sure > _SURE and gain > _STALLED * last
    clear = float(np.hypot(loss.errors[PARTS // 2], loss.errors[-1])) <= _CLEAR * last
    if flat == PARTS and clear and not falls and loss.levels.max() <= _RISEN * loss.start and not _knows(run):
        said = f"The loss never fell: it is {number(last)} at the end, {number(loss.start)} at the start."
        return [_finding(run, "never", "warning", 0.85, None, said, loss)]
    if flat - warm >= _LEAST_PARTS and last <= _FALLEN * loss.start:
        end = loss.step_of(flat)
        said = (
            f"The loss stood near {number(loss.start)} until about step {end}, {flat / PARTS:.0%} of the run, then"
            f" fell to {number(last)}."
        )
        return [_finding(run, "at first", "warning", 0.75, int(loss.track.steps[0]), said, loss)]
    if loss.left >= _FALLEN and not falls and clear and flat < PARTS and not _knows(run):
        stays = f"it stays at {number(last)}, {loss.left:.0%} of its start"
        said = f"The loss has not fallen since step {loss.step_of(5)}: {stays}."
        return [_finding(run, "in the end", "info", 0.6, loss.step_of(5), said, loss)]
    return []


def _warm_parts(run: Run, loss: Progress) -> int:
    """Parts at the beginning in most of which the learning rate was below a tenth of its peak."""
    rate = rates(run)
    if rate is None:
        return 0
    low = [float(rate.at(loss.step_of(k)) or 0.0) < _WARMING * float(rate.values.max()) for k in range(PARTS)]
    return int(np.argmin([*low, False]))


def _knows(run: Run) -> bool:
    """Whether the first answers were already right far more often than chance."""
    accuracy = [t.finite() for t in tracks(run, "accuracy")]
    labels = table(run, "label_share")
    if not accuracy or not len(accuracy[0]) or not labels.labels:
        return False
    chance = float(np.nanmax(np.nanmean(labels.values, axis=0)))
    return float(np.median(accuracy[0].values[:3])) > min(_KNOWN * chance, (1 + chance) / 2)


def _finding(
    run: Run, how: str, severity: Severity, sure: float, step: int | None, said: str, loss: Progress
) -> Finding:
    rate = rates(run)
    now = f" (now {number(float(rate.values.max()))})" if rate is not None else ""
    remedies = {
        "never": (
            f"See that labels belong to their inputs and that the model can fit 50 examples at all; then try a learning"
            f" rate ten times higher and lower{now}, a wider model, and default initialisation."
        ),
        "at first": (
            f"Larger initial weights or normalisation shorten the first {loss.track.steps[-1]} steps' flat part; so do"
            f" momentum or Adam, or a higher learning rate{now}."
        ),
        "in the end": (
            f"If the loss should be lower than {number(loss.end)}: lower the learning rate{now} where it bounces (noise"
            f" {number(loss.noise)}), else use a larger model."
        ),
    }
    return Finding(
        code=rule.code,
        severity=severity,
        confidence=sure,
        step=step,
        summary=said,
        remedy=remedies[how],
        evidence={"series": ["loss"], "labels": [], "how": how, "levels": loss.levels.tolist(), "start": loss.start},
        source=rule.source,
    )


rule = FindingRule(
    code="plateau",
    title="The loss does not fall",
    needs=("loss",),
    source="Saxe, McClelland & Ganguli 2014, arXiv:1312.6120; Dauphin et al. 2014, arXiv:1406.2572",
    assess=assess,
    caused_by=(
        "lr-too-high",
        "lr-too-low",
        "bad-init",
        "dead-units",
        "saturated-units",
        "vanishing-gradient",
        "exploding-gradient",
        "frozen-parameters",
        "unnormalized-inputs",
        "missing-zero-grad",
        "scheduler-misuse",
        "weight-decay-dominates",
        "epsilon-underflow",
        "clipping-always-active",
        "batch-too-small",
        "diverging",
        "nonfinite",
        "collapsed-output",
        "loss-mismatch",
        "eval-mode-training",
        "label-noise",
        "attention-entropy-collapse",
    ),
)
