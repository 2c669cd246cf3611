"""A learning-rate schedule that does what nobody would want: most often one stepped in batches but meant in epochs.

*Unfinished*, from what torch's schedulers say of themselves: one that was made for half to twice as many steps as the
optimizer took has itself taken a tenth of its length at most. Its length is in batches, it is stepped once an epoch; an
epoch of ten batches or more is needed for that. Schedules longer than that belong to runs that were cut short.

The rest is looked at relative to the highest learning rate of the run:

- *collapse*: for at least half of the steps, all of them at the end, the rate is below a hundredth of its peak, while
  the loss is still above a tenth of its start. Decay that is spread over the run stays above: a cosine to zero spends
  6 % of the steps below a hundredth, a line 1 %, exponential decay to a thousandth a third, three steps of a tenth a
  quarter. A finished training is not hurt by a small rate, hence the condition on the loss, which must also have been
  falling (2 %, two standard errors) when the rate was last above half of its peak: a rate that follows a plateau
  does its work. The rate must further be below a twentieth of the first one or of what nine tenths of the steps before
  did not exceed, so that a peak of a few steps is not taken for the rule.
- *rise*: after falling below a hundredth of its peak the rate climbs back above half of it, by many small changes and
  with a rounded valley (the rate grows as a power of at least 1.5 of the distance from its minimum): a cosine beyond
  its end. Warm restarts jump, cyclic schedules have a sharp valley (power 1), warm-up comes before any peak.
- *endless warm-up*: the rate rises in many small changes through the whole run and the last rate is the highest, 1.5
  times that of the middle or more (a line has 2). A rate test rises by orders of magnitude, which a warm-up in its
  second half does not: a factor above ten from the middle to the end is left alone.
- *jump*: after a tenth of the run the rate sets a record by at least a factor of five in one change, and the loss of
  the next steps is at least twice that of the steps before.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from separatrix.analysis.progress import Progress, progress, rates
from separatrix.analysis.trends import Floats, Track, number
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_FEWEST = 40
_SAME_UNIT = 2.0
_BARELY = 0.1
_COLLAPSED = 0.01
_COLLAPSED_SHARE = 0.5
_COLLAPSED_FROM = 0.05
_UNFINISHED = 0.1
_ACTIVE = 0.5
_GAIN = 0.02
_BACK = 0.5
_ROUND = 1.5
_GRADUAL = 10
_WARMING = 1.5
_TESTING = 10.0
_JUMP = 5.0
_JUMP_AFTER = 0.1
_HARM = 2.0
_WINDOW = 10


@dataclasses.dataclass(frozen=True)
class _Misuse:
    how: str
    step: int
    summary: str
    remedy: str
    confidence: float


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for the first kind of misuse that applies."""
    rate, loss = rates(run), progress(run)
    if rate is None or len(rate) < _FEWEST:
        return NotAssessed(rule.code, (f"learning_rate over at least {_FEWEST} steps",))
    peak = float(rate.values.max())
    if peak <= 0:
        return []
    candidates = (
        _unfinished(run, rate),
        _collapse(rate, peak, loss),
        _rise(rate, peak),
        _warm_up(rate),
        _jump(rate, loss),
    )
    found = next((misuse for misuse in candidates if misuse is not None), None)
    if found is None:
        return []
    return [
        Finding(
            code=rule.code,
            severity="warning",
            confidence=found.confidence,
            step=found.step,
            summary=found.summary,
            remedy=found.remedy,
            evidence={
                "series": ["learning_rate", *(["loss"] if loss is not None else [])],
                "labels": [rate.label] if rate.label else [],
                "how": found.how,
                "peak": peak,
                "last": float(rate.values[-1]),
            },
            source=rule.source,
        )
    ]


def _unfinished(run: Run, rate: Track) -> _Misuse | None:
    count = int(rate.steps[-1])
    for facts in run.schedulers:
        length, steps = facts["length"], int(facts["steps"])
        if length and count / _SAME_UNIT <= length <= count * _SAME_UNIT and steps <= _BARELY * length:
            low, high = float(rate.values.min()), float(rate.values.max())
            return _Misuse(
                "unfinished",
                int(rate.steps[0]),
                f"{facts['name']} was made for {length} steps and has taken {steps}, while the optimizer took {count}:"
                f" the learning rate stayed between {number(low)} and {number(high)}.",
                f"Call scheduler.step() after each of the {count} steps of the optimizer, or give the schedule its"
                " length in epochs.",
                0.95,
            )
    return None


def _collapse(rate: Track, peak: float, loss: Progress | None) -> _Misuse | None:
    above = np.flatnonzero(rate.values >= _COLLAPSED * peak)
    since = int(above[-1]) + 1
    if len(rate) - since < _COLLAPSED_SHARE * len(rate) or (loss is not None and not loss.left > _UNFINISHED):
        return None
    usual = max(float(rate.values[0]), float(np.quantile(rate.values[:since], 0.9)))
    if rate.values[since:].max() > _COLLAPSED_FROM * usual or not _was_falling(rate, peak, loss):
        return None
    step = int(rate.steps[since])
    spent = f"{1 - since / len(rate):.0%} of the steps"
    changes = int(np.count_nonzero(np.diff(rate.values[: since + 1])))
    per_batch = changes >= _GRADUAL and changes >= since / 2
    advice = (
        "The rate changes at every step: call scheduler.step() once an epoch, or give the schedule its length in steps"
        if per_batch
        else "Spread the decay over the whole run, and see that what the schedule watches (mode, patience) is right"
    )
    left = f"; the loss is still at {loss.left:.0%} of its start" if loss is not None else ""
    return _Misuse(
        "collapse",
        step,
        f"The learning rate is below a hundredth of its peak {number(peak)} from step {step} on, {spent}{left}.",
        f"{advice}: of {len(rate)} steps only {since} had a rate that matters.",
        0.9 if loss is not None else 0.6,
    )


def _was_falling(rate: Track, peak: float, loss: Progress | None) -> bool:
    """Whether the loss fell when the rate was last above half of its peak; taken for granted within few steps."""
    until = int(rate.steps[np.flatnonzero(rate.values >= _ACTIVE * peak)[-1]])
    values = loss.track.values[loss.track.steps <= until] if loss is not None else np.empty(0)
    if len(values) < _FEWEST:
        return True
    third = len(values) // 3
    before, after = values[-2 * third : -third], values[-third:]
    noise = float(np.sqrt(np.mean(np.diff(values[-2 * third :]) ** 2) / 2))
    gain = float(before.mean() - after.mean())
    return gain >= max(_GAIN * float(before.mean()), 2 * noise * math.sqrt(2 / third))


def _rise(rate: Track, peak: float) -> _Misuse | None:
    top = int(np.argmax(rate.values))
    low = np.flatnonzero(rate.values[top:] <= _COLLAPSED * peak)
    if not low.size:
        return None
    after = rate.values[top + int(low[0]) :]
    back = np.flatnonzero(after >= _BACK * peak)
    if not back.size:
        return None
    climb = after[: int(back[0]) + 1]
    valley = int(np.flatnonzero(climb == climb.min())[-1])
    climb = climb[valley:]
    changed = climb[np.concatenate([[True], np.diff(climb) > 0])]
    if len(changed) < _GRADUAL or _power(changed) < _ROUND:
        return None
    step = int(rate.steps[top + int(low[0]) + valley])
    return _Misuse(
        "rise",
        step,
        f"The learning rate reached its minimum at step {step} and then climbed back to {number(float(climb[-1]))}.",
        f"The schedule ended at step {step} of {int(rate.steps[-1])}: give it its length in steps (or step it once an"
        " epoch), or stop stepping it there.",
        0.85,
    )


def _power(climb: Floats) -> float:
    """The power of the distance from its lowest point with which a climb rises, from its quarter and its half."""
    rise = climb - climb[0]
    quarter, half = rise[len(rise) // 4], rise[len(rise) // 2]
    return float(np.log2(half / quarter)) if quarter > 0 else 0.0


def _warm_up(rate: Track) -> _Misuse | None:
    values = rate.values[rate.values > 0]
    rises = np.diff(values)
    if (rises < 0).any() or np.count_nonzero(rises) < _GRADUAL or len(values) < len(rate) / 2:
        return None
    middle, last = float(values[len(values) // 2]), float(values[-1])
    late = float(values[-max(2, len(values) // 5)])
    if not (_WARMING <= last / middle <= _TESTING and last > late):
        return None
    return _Misuse(
        "endless warm-up",
        int(rate.steps[0]),
        f"The learning rate rises to the end of the run: {number(middle)} half-way, {number(last)} at the last step.",
        f"Let the warm-up end within the first tenth of the run, by step {max(1, len(rate) // 10)}: give its length in"
        " the unit in which the scheduler is stepped.",
        0.85,
    )


def _jump(rate: Track, loss: Progress | None) -> _Misuse | None:
    if loss is None:
        return None
    records = np.maximum.accumulate(rate.values)[:-1]
    jumps = np.flatnonzero((rate.values[1:] >= _JUMP * records) & (records > 0)) + 1
    for index in map(int, jumps[jumps >= _JUMP_AFTER * len(rate)]):
        step = int(rate.steps[index])
        before = loss.track.values[loss.track.steps < step][-_WINDOW:]
        after = loss.track.values[loss.track.steps > step][:_WINDOW]
        if before.size and after.size and np.median(after) >= _HARM * np.median(before):
            old, new = float(rate.values[index - 1]), float(rate.values[index])
            return _Misuse(
                "jump",
                step,
                f"The learning rate jumps from {number(old)} to {number(new)} at step {step}, and the loss rises.",
                f"Check the schedule at step {step}: a decay factor (gamma) above 1, or a warm-up that ends in a jump.",
                0.8,
            )
    return None


rule = FindingRule(
    code="scheduler-misuse",
    title="The schedule of the learning rate is misused",
    needs=("learning_rate",),
    source="torch.optim documentation: a scheduler counts its own calls; Loshchilov & Hutter 2017, arXiv:1608.03983",
    assess=assess,
)
