"""Some training labels are wrong.

*From the examples*, where their margins were recorded (score of the assigned label minus the largest other): the mean
margin of each example over the first learnt epochs, before the model can memorise. Wrong labels lose against the right
ones again and again, so that the means form two groups. It counts when a mixture of two normal distributions, fitted by
expectation maximisation, has a lower group

- whose mean is below zero: its labels lose on average,
- apart from the other by Ashman's D = sqrt(2) |m1 - m2| / sqrt(s1² + s2²) of at least 2, the least at which a mixture
  of two normals shows two peaks: hard but right examples, and those of classes that overlap, form a tail instead,
- and when labels are wrong where the model is surest. Under a plain cross-entropy that is the noise rate of
  `separatrix.analysis.examples.mislabeled`, of at least 3 %, and of 1 % at least with a probability of 99 %: a percent
  or two of most data is hard or wrong (Northcutt et al. 2021). Under other losses (weighted, smoothed, of one answer)
  the lower group must hold 3 % to half of the examples, at most half of which the model had right.

*From training and evaluation*, where they were not recorded: the model does better on evaluation data, whose labels are
right, than on the data it is trained on. By at least fifteen points of accuracy (from ten on it is worth knowing),
four standard errors, and with a loss lower by a quarter or more. Compared are stretches between two evaluations at both
of which the accuracy is within a tenth of its best, and that is above 60 %: before, the model is still learning while
the stretch lasts. They are taken together from the first up to the one with which the difference stands out most: later
on the wrong labels are learnt by heart. Dropout, soft targets and losses that sum several of one kind (mixup) do the
same, so that a training with these is not judged; augmentation does it less, hence the low confidence. Noise that is in
the evaluation's labels too is not seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from separatrix.analysis.examples import early_margins, run_mislabeled
from separatrix.analysis.trends import Floats, Integers, Track, listed, number, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_LEAST_SHARE, _MOST_SHARE = 0.03, 0.5
_SURELY = 0.01
_APART = 2.0
_MOST_RIGHT = 0.5
_FEWEST_EXAMPLES = 50
_FEWEST_EPOCHS = 2
_BETTER, _WORTH_KNOWING = 0.15, 0.1
_ERRORS = 4.0
_LOSS_RATIO = 4.0 / 3.0
_LEARNT = 0.6
_NEAR_BEST = 0.9
_FEWEST_EVALUATIONS = 3
_ROUNDS = 200
_NAMED = 10
_LIKELIHOODS = ("cross_entropy", "nll_loss")


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding, from the examples' margins if they were recorded."""
    if "example_margin" in run:
        found = _from_examples(run)
        if found is not None:
            return found
    found = _from_evaluations(run)
    if found is None:
        missing = "example_margin, or accuracy, eval_accuracy and eval_loss without dropout or mixed targets"
        return NotAssessed(rule.code, (missing,))
    return found


@dataclasses.dataclass(frozen=True)
class _Suspects:
    """How many labels are wrong, and the examples whose labels may be, the likeliest first."""

    share: float
    examples: Integers
    confidence: float
    facts: dict[str, object]


def _from_examples(run: Run) -> Sequence[Finding] | None:
    data = run.series("example_margin")
    if list(data.coords) != ["example"] or len(data.steps) < _FEWEST_EPOCHS:
        return None
    margins = np.asarray(data.values, dtype=np.float64)
    means = early_margins(np.where(np.isfinite(margins), margins, np.nan))
    seen = np.flatnonzero(np.isfinite(means))
    if len(seen) < _FEWEST_EXAMPLES:
        return None
    low, high, deviations, share, chance = two_groups(means[seen])
    apart = float(np.sqrt(2.0) * (high - low) / max(float(np.hypot(*deviations)), 1e-12))
    if low >= 0.0 or apart < _APART:
        return []
    found = _by_anchors(run) if _is_plain(run) else _by_groups(means, margins, seen, share, chance, apart)
    if found is None or not len(found.examples):
        return []
    labels = np.array(data.coords["example"])
    worst = [str(label) for label in labels[found.examples[:_NAMED]]]
    return [
        Finding(
            code=rule.code,
            severity="warning",
            confidence=found.confidence,
            step=None,
            summary=(
                f"About {found.share:.0%} of the training labels look wrong: before they could be learnt by heart,"
                f" margins formed a group about {number(low)}, below those of the others about {number(high)};"
                f" {len(found.examples)} labels are more likely wrong than right."
            ),
            remedy=(
                f"Look at the labels of {listed(worst, _NAMED)} first, then at all {len(found.examples)}; correct or"
                " drop them, or train with label smoothing, a robust loss or early stopping."
            ),
            evidence={
                "series": ["example_margin", *(["example_loss"] if "at_least" in found.facts else [])],
                "labels": worst,
                "how": "margins of examples",
                "share": found.share,
                "mean_margin_of_suspects": low,
                "mean_margin_of_others": high,
                "separation": apart,
                **found.facts,
            },
            source=rule.source,
        )
    ]


def _is_plain(run: Run) -> bool:
    """Whether the loss of an example is the negative logarithm of its label's probability."""
    return "example_loss" in run and all(
        facts["name"] in _LIKELIHOODS
        and not facts.get("weighted")
        and facts.get("label_smoothing") == 0.0
        and not str(facts.get("target_dtype", "")).startswith("float")
        for facts in run.losses
    )


def _by_anchors(run: Run) -> _Suspects | None:
    found = run_mislabeled(run)
    surely = found.at_least()
    if found.noise_rate < _LEAST_SHARE or surely < _SURELY:
        return None
    facts = {"at_least": surely, "anchors": found.anchors, "disagreeing": found.disagreeing}
    sure = round(float(np.clip(0.7 + 0.25 * surely / _LEAST_SHARE, 0.7, 0.95)), 3)
    return _Suspects(found.noise_rate, found.suspected(), sure, dict(facts))


def _by_groups(
    means: Floats, margins: Floats, seen: Integers, share: float, chance: Floats, apart: float
) -> _Suspects | None:
    suspects = seen[chance > 0.5]
    if not _LEAST_SHARE <= share <= _MOST_SHARE or not len(suspects):
        return None
    early = margins[: max(_FEWEST_EPOCHS, len(margins) // 2), suspects]
    if float((early[np.isfinite(early)] > 0).mean()) > _MOST_RIGHT:
        return None
    sure = round(float(np.clip(0.7 + 0.1 * (apart - _APART), 0.7, 0.95)), 3)
    return _Suspects(share, suspects[np.argsort(means[suspects])], sure, {})


def two_groups(values: Floats) -> tuple[float, float, tuple[float, float], float, Floats]:
    """Means of the lower and upper of two normals fitted to `values`, deviations, the lower's share, and chances.

    Expectation maximisation from the split at which the groups' variances are least; the last item (as many as values)
    is the chance that a value belongs to the lower group.
    """
    ordered = np.sort(values)
    count = len(ordered)
    sums, squares = np.cumsum(ordered), np.cumsum(ordered**2)
    sizes = np.arange(1, count)
    left = squares[:-1] - sums[:-1] ** 2 / sizes
    right = (squares[-1] - squares[:-1]) - (sums[-1] - sums[:-1]) ** 2 / (count - sizes)
    cut = int(np.argmin(left + right)) + 1
    chance = (values <= ordered[cut - 1]).astype(np.float64)
    floor = max(1e-3 * float(values.std()), 1e-12)
    low = high = share = 0.0
    deviations = (floor, floor)
    for _ in range(_ROUNDS):
        share = float(np.clip(chance.mean(), 1e-6, 1.0 - 1e-6))
        low, high = (float(np.average(values, weights=w + 1e-12)) for w in (chance, 1.0 - chance))
        deviations = (
            max(float(np.sqrt(np.average((values - low) ** 2, weights=chance + 1e-12))), floor),
            max(float(np.sqrt(np.average((values - high) ** 2, weights=1.0 - chance + 1e-12))), floor),
        )
        logs = [
            np.log(part) - np.log(deviation) - 0.5 * ((values - mean) / deviation) ** 2
            for part, mean, deviation in ((share, low, deviations[0]), (1.0 - share, high, deviations[1]))
        ]
        updated = 1.0 / (1.0 + np.exp(np.clip(logs[1] - logs[0], -700.0, 700.0)))
        done = float(np.abs(updated - chance).max()) < 1e-6
        chance = updated
        if done:
            break
    if low > high:
        low, high, deviations, share, chance = high, low, deviations[::-1], 1.0 - share, 1.0 - chance
    return low, high, deviations, share, chance


def _mixes_targets(run: Run) -> bool:
    """Whether the same outputs met several targets in one step, as in mixup."""
    return any(facts.get("mixed_targets") for facts in run.losses)


def _from_evaluations(run: Run) -> Sequence[Finding] | None:
    accuracy, better, loss, evaluated = (
        next(iter([t.finite() for t in tracks(run, name)]), Track("", np.empty(0, np.int64), np.empty(0)))
        for name in ("accuracy", "eval_accuracy", "loss", "eval_loss")
    )
    dropout = any(module.get("mode_effect") == "dropout" for module in run.modules)
    soft = any(str(facts.get("target_dtype", "")).startswith("float") for facts in run.losses)
    if (
        dropout
        or soft
        or _mixes_targets(run)
        or len(better) < _FEWEST_EVALUATIONS
        or len(accuracy) < _FEWEST_EVALUATIONS
        or not len(evaluated)
    ):
        return None
    best = float(better.values.max())
    gaps = []
    sizes = next(iter(tracks(run, "batch_size")), None)
    for index in range(1, len(better)):
        before, step = int(better.steps[index - 1]), int(better.steps[index])
        span = (accuracy.steps > before) & (accuracy.steps <= step)
        course = loss.values[(loss.steps > before) & (loss.steps <= step)]
        height = evaluated.at(step)
        if (
            min(better.values[index - 1 : index + 1]) < _NEAR_BEST * best
            or not span.any()
            or not course.size
            or height is None
        ):
            continue
        level = float(course.mean())
        rows = float(span.sum()) * ((sizes.at(step) if sizes is not None else None) or 1.0)
        gaps.append(
            (float(better.values[index]), float(accuracy.values[span].mean()), rows, level / max(height, 1e-12))
        )
    if not gaps:
        return []
    evals, trains, rows_of, ratios = (np.array(column) for column in zip(*gaps, strict=True))
    so_far = np.cumsum(rows_of)
    means, behind = (np.cumsum(values * rows_of) / so_far for values in (trains, evals - trains))
    spreads = np.sqrt(np.maximum(means * (1.0 - means), 1e-4) / so_far)
    last = int(np.argmax(behind / spreads))
    mean_train, gap, error = float(means[last]), float(behind[last]), float(spreads[last])
    ratio = float(np.median(ratios[: last + 1]))
    if best < _LEARNT or gap < _WORTH_KNOWING or gap < _ERRORS * error or ratio < _LOSS_RATIO:
        return []
    return [
        Finding(
            code=rule.code,
            severity="warning" if gap >= _BETTER else "info",
            confidence=0.7,
            step=None,
            summary=(
                f"The model is right in {mean_train:.0%} of its training batches and in {mean_train + gap:.0%} of the"
                " evaluation's examples: about that difference of the training labels look wrong."
            ),
            remedy=(
                f"Check a sample of the training labels: about {gap:.0%} would be wrong (unless the training inputs are"
                f" augmented). Stop near step {int(better.steps[int(np.argmax(better.values))])}, where the"
                f" evaluation's accuracy was {best:.0%}; later the model learns the wrong labels by heart."
            ),
            evidence={
                "series": ["accuracy", "eval_accuracy", "loss", "eval_loss"],
                "labels": [],
                "how": "training and evaluation",
                "accuracy": mean_train,
                "gap": gap,
                "standard_error": error,
            },
            source=rule.source,
        )
    ]


rule = FindingRule(
    code="label-noise",
    title="Some training labels are wrong",
    needs=(),
    source=(
        "Pleiss et al. 2020, arXiv:2001.10528; Arpit et al. 2017, arXiv:1706.05394; Northcutt et al. 2021,"
        " arXiv:1911.00068"
    ),
    assess=assess,
)
