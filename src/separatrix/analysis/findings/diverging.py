"""The loss ends above where it began: steps overshoot instead of descending.

Three ways to see it, all relative to the run's own first losses (mean of at most ten):

- *rise*: the median of the last losses lies above every one of the first, and their mean is at least twice that of
  the first. Gradient descent on any smooth loss with a stable step never ends above its start; a factor of 2 leaves
  room for a start that was low by luck. With fewer than three losses to average the factor is 10, since a single
  batch easily doubles a loss.
- *blow-up*: the loss rose to at least four times its start and never came back under it (95 % of it, to allow for
  noise). This is how a step that is far too large looks in a saturating network: a jump, then a constant output. It
  also counts if a layer died on the way (dead units from below 50 % to 90 % or more): what is left predicts a
  constant, which can be better than the start.
- *relapse*: the loss had fallen to half its start or less and ends at or above its start, or is no number any more
  after its last finite values (median of five) had risen to four times its lowest level.

A run that is cut off within one of several spikes does not diverge: nothing is said when the loss was above its start
twice before, each time for longer than at the end, and came back to half its start or less in between.

Losses that take negative values have no natural zero: for them the rise must be ten times the larger of their initial
size and spread. They can also fall without bound, which is a fourth way:

- *runaway*: the loss falls faster and faster. Where an objective has no minimum (a penalty of the wrong sign, a
  likelihood that a point makes infinite), the distance from where it is flat grows exponentially, and so does the loss;
  on the way to a minimum a loss slows down. It counts if the last third of the run brings twice the fall of the third
  before, more than ten times the initial size and spread, and the weights (median over matrices of their RMS) ended
  tenfold, or nothing is finite any more: a loss that is a gain or a log-density also falls faster for a while, but in
  weights of usual size.

Losses that oppose one another (several optimizers, as in a GAN) rise whenever the opponent improves: for them only a
thousandfold rise counts. Only finite losses are looked at. A rise begins where the loss was last within a quarter of
its first value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from separatrix.analysis.profiles import table
from separatrix.analysis.progress import matrices
from separatrix.analysis.trends import (
    Floats,
    Track,
    end_points,
    learning_rate,
    loss_tracks,
    median_of,
    number,
    smoothed,
    start,
    tracks,
)
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_RISE = 2.0
_RISE_OF_FEW = 10.0
_RISE_SIGNED = 10.0
_RISE_IN_GAME = 1000.0
_SPEEDS_UP = 2.0
_WEIGHTS_GREW = 10.0
_BLOW_UP = 4.0
_BACK = 0.95
_VISIBLE = 0.25
_LEARNT = 0.5
_ALIVE = 0.5
_DEAD = 0.9
_PASSED = 2
_FEWEST = 2
_FEWEST_BLOW_UP = 10
_FEWEST_RELAPSE = 30
_LAST = 5


@dataclasses.dataclass(frozen=True)
class _Case:
    how: str
    track: Track
    step: int
    start: float
    peak: float
    end: float

    @property
    def ratio(self) -> float:
        """How far the loss went, in units of its start."""
        return max(abs(self.peak), abs(self.end)) / max(abs(self.start), np.finfo(np.float64).tiny)


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for the loss that diverged most, if any."""
    losses, opposed = loss_tracks(run)
    if not losses or max(map(len, losses)) < _FEWEST:
        return NotAssessed(rule.code, (f"at least {_FEWEST} finite values of loss",))
    cases = [case for case in (_case(run, track, opposed) for track in losses) if case is not None]
    if not cases:
        return []
    case = max(cases, key=lambda c: c.ratio)
    confidence = 0.75 + 0.08 * float(np.clip(np.log10(max(case.ratio, 1.0)), 0.0, 3.0))
    confidence -= 0.15 if len(case.track) < 20 or case.how == "relapse" else 0.0
    name = f"The loss of {case.track.label}" if case.track.label else "The loss"
    said = {
        "rise": f"{name} rose from {number(case.start)} to {number(case.end)}",
        "blow-up": f"{name} jumped from {number(case.start)} to {number(case.peak)} and never came back from it",
        "relapse": f"{name} lost what it had learnt and ends at {number(case.end)}, its start was {number(case.start)}",
        "runaway": f"{name} falls without bound, faster and faster, from {number(case.start)} to {number(case.end)}",
    }
    return [
        Finding(
            code=rule.code,
            severity="error",
            confidence=round(confidence, 3),
            step=case.step,
            summary=f"{said[case.how]} (from step {case.step} on).",
            remedy=_remedy(run, case),
            evidence={
                "series": ["loss"],
                "labels": [case.track.label] if case.track.label else [],
                "how": case.how,
                "start": case.start,
                "peak": case.peak,
                "end": case.end,
            },
            source=rule.source,
        )
    ]


def _case(run: Run, track: Track, opposed: bool) -> _Case | None:
    values = track.values
    count = len(values)
    if count < _FEWEST:
        return None
    lost = not all(np.isfinite(whole.values[-1]) for whole in tracks(run, "loss") if whole.label == track.label)
    first, last = start(track), values[-end_points(count) :]
    began, end = float(first.mean()), float(np.median(last))
    level = smoothed(values, 3 if count >= _FEWEST_BLOW_UP else 1)
    peak_at = int(np.argmax(level))
    first_rise = float(first[0] + _VISIBLE * abs(first[0]))

    def case(how: str, threshold: float, until: int) -> _Case:
        return _Case(
            how, track, _onset(track.steps, level, threshold, until), float(first[0]), float(values.max()), end
        )

    if values.min() >= 0 and _passes(level, first_rise, _LEARNT * began):
        return None
    if end > first.max() and _has_risen(values, first, last, opposed):
        return case("rise", first_rise, count)
    if not opposed and _runs_away(run, values, first):
        below = np.flatnonzero(values < first.mean() - _initial_size(first))
        return _Case("runaway", track, int(track.steps[below[0]]), float(first[0]), float(values.min()), end)
    if opposed or values.min() < 0 or count < _FEWEST_BLOW_UP:
        return None
    after = level[peak_at:]
    lasting = len(after) > count // 10 and min(float(after.min()), end) >= _BACK * began
    if level[peak_at] >= _BLOW_UP * began and (lasting or _has_died(run, int(track.steps[0]))):
        return case("blow-up", first_rise, peak_at + 1)
    settled = smoothed(values, end_points(count))[end_points(count) - 1 :]
    if count >= _FEWEST_RELAPSE and lost and float(np.median(values[-_LAST:])) >= _BLOW_UP * float(settled.min()):
        return case("relapse", (float(settled.min()) + began) / 2, count)
    if count >= _FEWEST_RELAPSE and settled.min() <= _LEARNT * began and end >= max(began, float(np.median(first))):
        return case("relapse", (float(settled.min()) + began) / 2, count)
    return None


def _has_risen(values: Floats, first: Floats, last: Floats, opposed: bool) -> bool:
    rise = float(last.mean()) - float(first.mean())
    if opposed:
        return rise >= _RISE_IN_GAME * _initial_size(first)
    if values.min() < 0:
        return rise >= _RISE_SIGNED * _initial_size(first)
    return float(last.mean()) >= (_RISE_OF_FEW if len(last) < 3 else _RISE) * float(first.mean())


def _initial_size(first: Floats) -> float:
    """The larger of the size and the spread of the first losses: the unit of those that have no natural zero."""
    return max(float(np.abs(first).mean()), float(first.std()))


def _runs_away(run: Run, values: Floats, first: Floats) -> bool:
    """Whether the loss falls below zero ever faster while the weights grow out of their scale."""
    width = end_points(len(values))
    if len(values) < _FEWEST_RELAPSE or values[-width:].max() >= 0:
        return False
    third = len(values) // 3
    early, middle, late = (float(np.median(values[end - width : end])) for end in (third, 2 * third, 3 * third))
    fall = middle - late
    if fall < max(_SPEEDS_UP * (early - middle), _RISE_SIGNED * _initial_size(first)):
        return False
    if not all(np.isfinite(track.values[-1]) for track in tracks(run, "loss")):
        return True
    weights = table(run, "weight_rms")
    columns = [weights.column(label)[1] for label in matrices(run)]
    growth = [values[-1] / values[0] for values in columns if len(values) > 1 and values[0] > 0]
    return bool(growth and np.median(growth) >= _WEIGHTS_GREW)


def _passes(level: Floats, high: float, learnt: float) -> bool:
    """Whether the level was high twice before, for longer than at the end, and came back to what was learnt."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], level > high, [False]]).astype(np.int8)))
    begins, ends = edges[::2], edges[1::2]
    if not len(ends) or ends[-1] < len(level):
        return False
    following = [*begins[1:], len(level)]
    earlier = [
        end - begin
        for begin, end, next_one in zip(begins[:-1], ends[:-1], following, strict=False)
        if level[end:next_one].min() <= learnt
    ]
    return bool(sum(length > ends[-1] - begins[-1] for length in earlier) >= _PASSED)


def _has_died(run: Run, first_step: int) -> bool:
    """Whether some layer had living units at first and has hardly any at the end."""
    shares = table(run, "dead_unit_share")
    columns = [shares.column(label) for label in shares.labels]
    return any(
        len(values) > 1 and steps[0] == first_step and values[0] < _ALIVE and np.median(values[-3:]) >= _DEAD
        for steps, values in columns
    )


def _onset(steps: np.ndarray, level: Floats, threshold: float, until: int) -> int:
    """The step after the last one, before index `until`, at which the loss was not above the threshold."""
    below = np.flatnonzero(level[:until] <= threshold)
    return int(steps[min(int(below[-1]) + 1, len(steps) - 1)]) if below.size else int(steps[0])


def _remedy(run: Run, case: _Case) -> str:
    if case.how == "runaway":
        return (
            "Look for a term of the loss that has no minimum: a penalty that is subtracted, an error that is maximised,"
            f" a variance without a floor. No learning rate mends that; keep weights from before step {case.step}."
        )
    rate, norm = learning_rate(run, case.step), median_of(run, "gradient_norm")
    advice = (
        f"Lower the learning rate (now {number(rate)}, try {number(rate / 10)})" if rate else "Lower the learning rate"
    )
    clip = f", or clip the gradient norm near its median {number(norm)}" if norm else ", or clip the gradient norm"
    late = case.how == "relapse"
    schedule = "; let it decay before that step" if late else "; a warm-up over the first steps also helps"
    return f"{advice}{clip}{schedule}. See what changed at step {case.step}."


rule = FindingRule(
    code="diverging",
    title="The loss diverges",
    needs=("loss",),
    source="Gradient descent with a step above 2/curvature overshoots and grows: Cohen et al. 2021, arXiv:2103.00065",
    assess=assess,
    caused_by=(
        "exploding-gradient",
        "missing-zero-grad",
        "unnormalized-inputs",
        "lr-too-high",
        "bad-init",
        "scheduler-misuse",
        "epsilon-underflow",
        "loss-mismatch",
    ),
)
