"""The learning rate is so high that steps overshoot: the loss jumps, bounces or stays where it was.

Something must go wrong, in one of three ways, and steps must be seen to be too long for it to count.

What goes wrong:

- *overshoot*: within the first fifth of the run the loss (mean of five) rises to twice its start, by four times what
  batches explain (the least scatter of the run: of rare classes the first batches easily differ by a factor), and 30 %
  of the start or more is left at the end. A catapult that ends well is a good high rate. It is one too if the loss is
  no number any more before forty losses were seen.
- *bounce*: neighbouring losses differ, at the end, by three times what batches explain: losses of single examples
  scatter by about their mean, so those of batches of B by 1 / sqrt(B) of it (for B of 16 or more). Again with 30 % of
  the start left, since a small loss is made of few examples and scatters more.
- *stuck*: 60 % of the start or more is left.

Where one of the first steps was as long as the weights (or as torch's default weights, if they began smaller), the
start that was chosen for its signals is lost, and what becomes of the training is luck: then a loss is stuck with 30 %
left; and where it was half as long, an overshoot counts with 10 %.

The start is the first loss where batches hold 16 examples or more, since the next ones may have overshot already.

How steps are seen to be too long:

- a step replaces a tenth of the weights (median of update_ratio over weights, in the first measurements; one in a
  thousand is usual, and the first steps at high, good rates reach a tenth, rarely two): for *stuck*, where nothing else
  tells, three tenths, and if the loss never fell some step must have been measured to be that long (what momentum will
  add to the first steps is reckoned from gradients that persist, and those of a plateau do not); or
- the learning rate times curvature is four times what the optimizer bears (stability_ratio, median of the first half of
  the measurements). Training at the edge hovers around 1, and networks start well up to 2, where the loss first rises
  and then falls (Lewkowycz et al. 2020); four is beyond what they were seen to come back from; or
- for *overshoot* in the first ten steps, the rise itself, with a tenth of both limits: nothing but a step is between
  two losses. Exploding gradients, uncleared ones, and inputs or weights out of scale make long steps too; they are the
  cause then.

A loss that climbs all along a hundred steps or more (Spearman 0.9 with the step) while no curvature beyond the edge was
measured is not called so: steps that are too long throw it up at once, beyond all numbers or to where it stays. Such a
loss has the wrong sign, or a target that runs ahead of the model.

The rate that is advised follows from what was measured before an overshoot, steps and curvature alike: after it both
grow with every step and tell how long the loss has been rising, not which rate it would have borne. First steps are
longer than those that follow, since gradients fall: a fiftieth of the weights is usual for good rates there, and a rate
that blew up is lowered to a fifth at least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from separatrix.analysis.profiles import table
from separatrix.analysis.progress import Progress, highest, longest_step, matrices, progress, rates, relative_step
from separatrix.analysis.trends import loss_tracks, median_of, number, smoothed, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_LONG = 0.1
_LONG_ALONE = 0.3
_UNSTABLE = 4.0
_WITH_RISE = 0.1
_AT_ONCE = 10
_EARLY = 0.2
_RISE = 2.0
_ERRORS = 4.0
_UNFINISHED = 0.3
_UNFINISHED_OF_LOST = 0.1
_STUCK = 0.6
_HALF, _WHOLE = 0.5, 1.0
_FIRST = 3
_FELL = 0.9
_EDGE = 1.0
_ALL_ALONG = 0.9
_FEWEST_OF_A_CLIMB = 100
_BOUNCE = 3.0
_FEWEST_EXAMPLES = 16
_WIDTH = 5
_USUAL = 5e-3
_USUAL_AT_FIRST = 0.02
_AT_MOST_OF_BLOWN = 0.2
_FIRST_TO_TRY = 0.1


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for the optimizer's learning rate."""
    loss, rate = progress(run), rates(run)
    ratio = None if rate is None else relative_step(run, rate, early=True)
    edge = _edge(run)
    first = _first_steps(run)
    harm = _blown_up(run) if loss is None else _harm(run, loss, first)
    if (loss is None and harm is None) or rate is None or (ratio is None and edge is None):
        return NotAssessed(rule.code, ("loss, learning_rate and update_ratio or stability_ratio over enough steps",))
    if harm is None:
        return []
    how, step, said = harm
    size, curved = ratio or 0.0, edge or 0.0
    if first >= (_WHOLE if how == "stuck" else _HALF):
        size = max(size, longest_step(run))
    elif how == "stuck" and loss is not None and _never_fell(loss):
        size = min(size, longest_step(run))
    limit = _LONG_ALONE if how == "stuck" else _LONG
    if how == "overshoot" and step <= int(rate.steps[0]) + _AT_ONCE:
        limit, unstable = limit * _WITH_RISE, _UNSTABLE * _WITH_RISE
    else:
        unstable = _UNSTABLE
    if (size < limit and curved < unstable) or (loss is not None and curved < _EDGE and _climbs(loss)):
        return []
    peak = highest(rate)
    calm, taken = curved, size
    if how == "overshoot":
        calm = min(curved, _edge_before(run, step))
        taken = max(relative_step(run, rate, early=True, before=step) or 0.0, longest_step(run, before=step))
    wanted, why = _wanted(how, peak, taken, calm)
    facts = [f"a step replaces {number(taken or size)} of the weights"] if size >= limit else []
    facts += [f"learning rate times curvature is {number(curved)} of what is stable"] if curved >= unstable else []
    return [
        Finding(
            code=rule.code,
            severity="warning",
            confidence=0.9 if size >= 2 * limit or curved >= 2 * unstable else 0.75,
            step=int(rate.steps[0]),
            summary=f"The learning rate {number(peak)} is too high: {said}, and {' and '.join(facts)}.",
            remedy=(
                f"Lower the learning rate from {number(peak)} to about {number(wanted)}: {why}."
                " A warm-up helps at the start."
            ),
            evidence={
                "series": [n for n in ("loss", "learning_rate", "update_ratio", "stability_ratio") if n in run],
                "labels": [],
                "how": how,
                "update_ratio": (taken or None) if how == "overshoot" else ratio,
                "stability_ratio": calm or None,
                "loss_left": None if loss is None else loss.left,
                "seen_at": step,
                "learning_rate": peak,
                "suggested": wanted,
            },
            source=rule.source,
        )
    ]


def _edge(run: Run) -> float | None:
    values = np.concatenate([t.finite().values for t in tracks(run, "stability_ratio")] or [np.empty(0)])
    return float(np.median(values[: max(1, (len(values) + 1) // 2)])) if values.size else None


def _edge_before(run: Run, step: int) -> float:
    """Median of the measurements before a step; 0, which bounds no rate, where there is none.

    A loss that blows up takes curvature with it, to values that tell nothing of the rate at which it would not have.
    """
    found = [t.finite() for t in tracks(run, "stability_ratio")]
    values = np.concatenate([t.values[t.steps < step] for t in found] or [np.empty(0)])
    return float(np.median(values)) if values.size else 0.0


def _blown_up(run: Run) -> tuple[str, int, str] | None:
    """The overshoot of a loss that was not finite before there were enough losses for a progress."""
    losses, opposed = loss_tracks(run)
    if opposed or not losses or len(losses[0]) < 2 or losses[0].values.min() < 0 or losses[0].values[0] <= 0:
        return None
    values, steps = losses[0].values, losses[0].steps
    high = np.flatnonzero(values >= _RISE * values[0])
    if not high.size or not any(np.isnan(t.values).any() or np.isinf(t.values).any() for t in tracks(run, "loss")):
        return None
    at = int(steps[int(high[0])])
    said = f"the loss rose from {number(float(values[0]))} to {number(float(values.max()))} and beyond all numbers"
    return "overshoot", at, said


def _first_steps(run: Run) -> float:
    """Length of the longest of the first measured steps, over that of the weights, or of weights of usual size."""
    updates, weights = table(run, "update_rms"), table(run, "weight_rms")
    fans = {str(p["name"]): math.prod(p["shape"][1:]) for p in run.parameters}
    shares = []
    for label in matrices(run):
        _, moved = updates.column(label)
        _, sizes = weights.column(label)
        if moved.size and sizes.size and np.isfinite(moved[:_FIRST]).all():
            usual = 1.0 / math.sqrt(3.0 * fans[label])
            shares.append(float(moved[:_FIRST].max()) / max(float(sizes[0]), usual))
    return float(np.median(shares)) if shares else 0.0


def _harm(run: Run, loss: Progress, first_steps: float) -> tuple[str, int, str] | None:
    """What goes wrong, the step at which it shows, and how to say it."""
    values, steps = loss.track.values, loss.track.steps
    level = smoothed(values, _WIDTH, "mean")[: max(_WIDTH, int(_EARLY * len(values)))]
    batch = median_of(run, "batch_size")
    many = batch is not None and batch >= _FEWEST_EXAMPLES
    first = min(float(values[0]), loss.start) if many else loss.start
    high = np.flatnonzero((level >= first * max(_RISE, 1.0 + _ERRORS * loss.scatter)) & (level > values[0]))
    left = loss.end / first if first > 0 else loss.left
    if high.size and first > 0 and left > (_UNFINISHED_OF_LOST if first_steps >= _HALF else _UNFINISHED):
        peak = float(level.max())
        at = int(steps[int(high[0])])
        return "overshoot", at, f"the loss rose from {number(first)} to {number(peak)} by step {at}"
    if batch is not None and many and left > _UNFINISHED:
        expected = loss.end / float(np.sqrt(batch))
        if loss.noise >= _BOUNCE * expected:
            said = f"the loss bounces by {number(loss.noise)} around {number(loss.end)} at the end"
            return "bounce", loss.step_of(9), said
    if left > (_UNFINISHED if first_steps >= _WHOLE else _STUCK):
        return "stuck", int(steps[0]), f"{left:.0%} of the loss is left"
    return None


def _never_fell(loss: Progress) -> bool:
    return bool(smoothed(loss.track.values, _WIDTH, "mean").min() > _FELL * loss.start)


def _climbs(loss: Progress) -> bool:
    """Whether the loss rises all along the run: Spearman's correlation of its level with the step."""
    level = smoothed(loss.track.values, _WIDTH, "mean")
    ranks = level.argsort().argsort()
    return len(level) >= _FEWEST_OF_A_CLIMB and float(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) >= _ALL_ALONG


def _wanted(how: str, peak: float, size: float, curved: float) -> tuple[float, str]:
    """The rate to take, and why: the least of what the length of steps and the curvature bear."""
    blown = how == "overshoot"
    usual = _USUAL_AT_FIRST if blown else _USUAL
    bounds = []
    if curved > 1:
        stable = number(peak / curved)
        bounds.append(
            (peak / curved / 2, f"the curvature at the first measurements puts the stable rate below {stable}")
        )
    if size > usual:
        bounds.append((peak * usual / size, f"a step then moves the weights by about {number(usual)} of their size"))
    if bounds and blown:
        bounds.append((peak * _AT_MOST_OF_BLOWN, "a fifth leaves some distance to the rate at which the loss rose"))
    first = peak * _FIRST_TO_TRY, "a tenth is the first to try where nothing measured before the loss rose tells more"
    return min(bounds, default=first)


rule = FindingRule(
    code="lr-too-high",
    title="The learning rate is too high",
    needs=("loss", "learning_rate"),
    source="Cohen et al. 2021, arXiv:2103.00065; Lewkowycz et al. 2020, arXiv:2003.02218; Bengio 2012, arXiv:1206.5533",
    assess=assess,
    caused_by=(
        "batch-too-small",
        "exploding-gradient",
        "missing-zero-grad",
        "unnormalized-inputs",
        "bad-init",
        "scheduler-misuse",
        "epsilon-underflow",
    ),
)
