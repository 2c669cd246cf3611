"""Batches hold examples of like labels: the data comes in order.

Seen in how much the batches' mix of labels varies. With shares s of c classes in batches of B examples and mean shares
p, the variance of s between batches is G (1/B + rho (1 - 1/B)), G = sum p (1 - p), where rho is the correlation of the
labels of two examples of one batch: 0 for examples drawn at random, 1 where each batch holds one class, below 0 for
stratified batches. For targets that are numbers the same is the intraclass correlation of the analysis of variance.

It counts when rho is at least 0.2: such a batch is worth at most 1 / rho = 5 independent examples, whatever its size,
and the gradient points to whatever class is on. The estimate must also be beyond chance: the chi-square statistic of
the shares (or the ratio of variances) lies six standard deviations above its expectation. For numbers rho must be 0.5,
since windows of a time series in their order are common and often meant, and it must stay so within each quarter of the
run: numbers that a model makes itself, as in value learning, drift once from its beginning to its end, while data in
order returns in each epoch. Nor do means of data vary tenfold more in the last third of a run than in the first.

Data that is not shuffled but lies in a random order has rho near 0 and is fine. Labels of pixels or tokens are not
judged: those of one image or text belong together by nature; nor are games of several losses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.batches import ClassShares, class_shares
from separatrix.analysis.trends import loss_tracks, number, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_CORRELATION = 0.2
_CORRELATION_OF_NUMBERS = 0.5
_DEVIATIONS = 6.0
_FEWEST_BATCHES = 2
_FEWEST_BATCHES_OF_NUMBERS = 6
_QUARTERS = 4
_RUNS_AWAY = 10.0
_FEWEST_BATCHES_OF_QUARTERS = 40
_SMALLEST_BATCH = 4


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding if labels of one batch are alike."""
    shares = class_shares(run)
    if loss_tracks(run)[1]:
        return []
    if shares is not None and shares.by_example and len(shares.steps) >= _FEWEST_BATCHES:
        return _of_classes(shares)
    numbers = _numbers(run)
    if numbers is None:
        missing = "label_share or target_mean, of one label an example, in several batches of 4 or more examples"
        return NotAssessed(rule.code, (missing,))
    return numbers


def _of_classes(shares: ClassShares) -> Sequence[Finding] | NotAssessed:
    size = float(len(shares.rows) / (1.0 / shares.rows).sum())
    if size < _SMALLEST_BATCH:
        return NotAssessed(rule.code, (f"label_share of batches of at least {_SMALLEST_BATCH} examples",))
    rho, deviations = correlation_of_classes(shares.labels, size)
    if rho < _CORRELATION or deviations < _DEVIATIONS:
        return []
    largest = float(np.median(shares.labels.max(axis=1)))
    usual = float(shares.labels.mean(axis=0).max())
    return [
        _finding(
            rho,
            size,
            int(shares.steps[0]),
            f"Batches are not mixed: the largest class of a batch has {largest:.0%} of its labels, {usual:.0%} of all.",
            ["label_share"],
            {"batches": len(shares.steps), "largest_share_in_batch": largest, "deviations": deviations},
        )
    ]


def correlation_of_classes(shares: np.ndarray, size: float) -> tuple[float, float]:
    """Correlation of two labels of one batch, and by how many standard deviations chi-square exceeds chance.

    `shares` has shape (batches, classes), rows of sum 1; batches hold `size` examples.
    """
    mean = shares.mean(axis=0)
    present = mean > 0.0
    spread = float((mean * (1.0 - mean)).sum())
    if present.sum() < 2 or spread <= 0.0:
        return 0.0, 0.0
    count = len(shares)
    between = float(((shares - mean) ** 2).sum() / (count - 1))
    rho = (between / spread - 1.0 / size) / (1.0 - 1.0 / size)
    statistic = float((size * (shares[:, present] - mean[present]) ** 2 / mean[present]).sum())
    freedom = (count - 1) * (int(present.sum()) - 1)
    return rho, (statistic - freedom) / np.sqrt(2.0 * freedom)


def _numbers(run: Run) -> Sequence[Finding] | None:
    """The finding for targets that are numbers; None where there are too few of one output an example."""
    facts = run.losses[0] if len(run.losses) == 1 else None
    means = [track.finite() for track in tracks(run, "target_mean")]
    spreads = [track.finite() for track in tracks(run, "target_std")]
    sizes = [track.finite() for track in tracks(run, "batch_size")]
    if facts is None or not facts.get("targets") or not means or not spreads or not sizes or not len(sizes[0]):
        return None
    shape = facts["targets"]
    size = float(np.median(sizes[0].values))
    entries = int(np.prod(shape))
    if (
        entries != shape[0]
        or shape[0] != sizes[0].values[0]
        or size < _SMALLEST_BATCH
        or len(means[0]) < _FEWEST_BATCHES_OF_NUMBERS
    ):
        return None
    rho, deviations = correlation_of_numbers(means[0].values, spreads[0].values, size)
    if rho < _CORRELATION_OF_NUMBERS or deviations < _DEVIATIONS or _drifts(means[0].values, spreads[0].values, size):
        return []
    apart, within = float(means[0].values.std()), float(np.median(spreads[0].values))
    return [
        _finding(
            rho,
            size,
            int(means[0].steps[0]),
            f"Batches are not mixed: the mean targets of batches differ by {number(apart)} (standard deviation), the"
            f" targets within a batch by {number(within)}.",
            ["target_mean", "target_std"],
            {"batches": len(means[0]), "between_batches": apart, "within_batch": within, "deviations": deviations},
        )
    ]


def _drifts(means: np.ndarray, spreads: np.ndarray, size: float) -> bool:
    """Whether batches of one quarter of the run are alike, so that only the quarters differ, or means run away."""
    third = len(means) // 3
    if means[-third:].std() > _RUNS_AWAY * means[:third].std():
        return True
    if len(means) < _FEWEST_BATCHES_OF_QUARTERS:
        return False
    quarter = np.arange(len(means)) * _QUARTERS // len(means)
    levels = np.array([means[quarter == k].mean() for k in range(_QUARTERS)])
    return correlation_of_numbers(means - levels[quarter], spreads, size)[0] < _CORRELATION_OF_NUMBERS


def correlation_of_numbers(means: np.ndarray, spreads: np.ndarray, size: float) -> tuple[float, float]:
    """Intraclass correlation from means and standard deviations (correction 0) of batches, and F beyond chance."""
    within = float(np.mean(spreads**2)) * size / (size - 1.0)
    between = float(means.var(ddof=1))
    if within + between <= 0.0:
        return 0.0, 0.0
    rho = (between - within / size) / (between + within * (1.0 - 1.0 / size))
    ratio = size * between / within if within > 0.0 else np.inf
    return rho, float((ratio - 1.0) / np.sqrt(2.0 / (len(means) - 1)))


def _finding(rho: float, size: float, step: int, said: str, series: list[str], numbers: dict[str, float]) -> Finding:
    worth = size / (1.0 + (size - 1.0) * rho)
    return Finding(
        code=rule.code,
        severity="warning",
        confidence=0.95 if rho >= 0.5 and series == ["label_share"] else 0.8,
        step=step,
        summary=said,
        remedy=(
            "Shuffle the training data: DataLoader(..., shuffle=True), or a new torch.randperm each epoch. Labels of"
            f" one batch are correlated by {number(rho)}, so that {number(size)} examples are worth {number(worth)}."
        ),
        evidence={"series": series, "labels": [], "correlation": rho, "batch_size": size, "worth": worth, **numbers},
        source=rule.source,
    )


rule = FindingRule(
    code="unshuffled-data",
    title="The training data comes in order",
    needs=(),
    source="Bottou 2012, Stochastic gradient descent tricks, section 4; intraclass correlation: Fisher 1925",
    assess=assess,
)
