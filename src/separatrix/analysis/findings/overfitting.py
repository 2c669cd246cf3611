"""The training loss goes on falling while the evaluation loss rises from its minimum.

The rise is compared with what had been gained: u = (end - minimum) / (start - minimum), where the end is the median of
the last three evaluations and the start the first evaluation or, if that came late and both losses are in the same
units, the loss at the first steps. A loss that is trained on beyond need always turns up a little, since a sure wrong
answer costs more than an unsure one, without harm to accuracy. It counts

- from u = 0.1 on as worth knowing, from u = 0.25 on (a quarter of what was learnt is lost again) as a warning,
- if the rise is at least four standard deviations of the evaluation's noise, which is taken from its second
  differences (of white noise these have six times its variance),
- and if the training loss has fallen by a fifth or more since: where both rise, the training diverges, which is another
  matter.

Also a warning: the model has memorised its data without the evaluation loss turning up. The training loss has fallen
to a twentieth of its start, the evaluation loss has kept at least half of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.trends import Track, loss_tracks, number, start, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run, Severity

_WORTH_KNOWING = 0.1
_LOST = 0.25
_DEVIATIONS = 4.0
_STILL_FALLING = 0.8
_MEMORISED = 0.05
_KEPT = 0.5
_SAME_UNITS = 5.0
_FEWEST = 4
_LAST = 3
_GAUSSIAN_MAD = 1.4826


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding at the evaluation where the loss was least."""
    evaluations = [track.finite() for track in tracks(run, "eval_loss")]
    losses, opposed = loss_tracks(run)
    if not evaluations or len(evaluations[0]) < _FEWEST or not losses:
        return NotAssessed(rule.code, (f"at least {_FEWEST} values of eval_loss, and loss",))
    if opposed:
        return []
    return [f for f in (_of(run, evaluations[0], losses[0]),) if f is not None]


def _of(run: Run, evaluation: Track, training: Track) -> Finding | None:
    values = evaluation.values
    best = int(np.argmin(values))
    after = values[best + 1 :]
    lowest, end = float(values[best]), float(np.median(values[-_LAST:] if len(after) >= _LAST else values[-1:]))
    began = _start(evaluation, training)
    then, now = _level(training, int(evaluation.steps[best])), _level(training, int(training.steps[-1]))
    if then is None or now is None:
        return None
    gained, rise = began - lowest, end - lowest
    share = rise / gained if gained > 0 else 0.0
    falling = now <= _STILL_FALLING * then if then > 0 else now < then
    turned = share >= _WORTH_KNOWING and rise >= _DEVIATIONS * _noise(values) and falling and len(after) > 0
    opening = float(start(training).mean())
    comparable = _comparable(evaluation, training)
    memorised = comparable and 0 <= now <= _MEMORISED * opening and end >= _KEPT * opening
    if not turned and not memorised:
        return None
    severity: Severity = "warning" if memorised or share >= _LOST else "info"
    step = int(evaluation.steps[best])
    accuracy = [track.finite() for track in tracks(run, "eval_accuracy")]
    at_best = accuracy[0].at(step) if accuracy and len(accuracy[0]) else None
    at_end = float(np.median(accuracy[0].values[-_LAST:])) if accuracy and len(accuracy[0]) else None
    fit = f", accuracy from {at_best:.0%} to {at_end:.0%}" if at_best is not None and at_end is not None else ""
    said = (
        f"The evaluation loss rose from {number(lowest)} at step {step} to {number(end)}{fit}, while the training loss"
        f" fell from {number(then)} to {number(now)}."
        if turned
        else f"The training data is memorised: its loss fell from {number(opening)} to {number(now)}, the evaluation"
        f" loss is {number(end)}{fit}."
    )
    return Finding(
        code=rule.code,
        severity=severity,
        confidence=round(float(np.clip(0.75 + 0.2 * (share - _LOST), 0.6, 0.95)), 3) if turned else 0.75,
        step=step,
        summary=said,
        remedy=(
            f"Keep the weights of step {step} (early stopping), where the evaluation loss was {number(lowest)}; or"
            " regularise: weight decay, dropout, augmentation, a smaller model, more data."
        ),
        evidence={
            "series": ["eval_loss", "loss"],
            "labels": [],
            "eval_loss_least": lowest,
            "eval_loss_end": end,
            "share_lost": share,
            "loss_then": then,
            "loss_end": now,
        },
        source=rule.source,
    )


def _start(evaluation: Track, training: Track) -> float:
    first = float(evaluation.values[0])
    return max(first, float(start(training).mean())) if _comparable(evaluation, training) else first


def _comparable(evaluation: Track, training: Track) -> bool:
    """Whether the two losses are in the same units, as far as the first evaluation tells."""
    level = _level(training, int(evaluation.steps[0]))
    first = float(evaluation.values[0])
    return level is not None and level > 0 and 1.0 / _SAME_UNITS <= first / level <= _SAME_UNITS


def _level(training: Track, step: int) -> float | None:
    """The median training loss of the stretch before a step: a twentieth of the run."""
    width = max(5, len(training) // 20)
    before = training.values[training.steps <= step][-width:]
    return float(np.median(before)) if before.size else None


def _noise(values: np.ndarray) -> float:
    """Standard deviation of white noise on top of a smooth course."""
    second = np.diff(values, 2)
    return _GAUSSIAN_MAD * float(np.median(np.abs(second))) / np.sqrt(6.0) if second.size >= 3 else 0.0


rule = FindingRule(
    code="overfitting",
    title="Overfitting",
    needs=("eval_loss", "loss"),
    source="Prechelt 1998, Early stopping - but when?; Zhang et al. 2017, arXiv:1611.03530",
    assess=assess,
    caused_by=("label-noise", "eval-mode-training", "unshuffled-data", "lazy-training"),
)
