"""Some classes are rare, and the model hardly ever predicts them.

A class is rare when its share of the labels is at most a fifth of the largest class's: data sets that count as
balanced (digits, garments, wine) stay within a factor of two, and the accuracy of a model that ignores a class of that
share still looks fine. Imbalance alone is no fault: a class that is easy to tell is learnt all the same, and weights in
the loss or a sampler make up for it. It is one when, in the samples of the last two thirds of the steps, the rare
classes together are predicted at most half as often as they occur, beyond chance: so few predictions would come up in
one of a thousand cases, of a Poisson count as large as the labels'. Predictions are those on the training batches, so
what is ignored there is ignored everywhere.

More than twenty classes are not judged: frequencies of words and letters span decades by nature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from separatrix.analysis.batches import class_shares
from separatrix.analysis.trends import listed, number, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_RARE = 0.2
_IGNORED = 0.5
_CHANCE = 1e-3
_SKIPPED = 1.0 / 3.0
_FEWEST_BATCHES = 2
_MOST_CLASSES = 20


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for all classes that are rare and ignored."""
    shares = class_shares(run)
    if shares is None or len(shares.steps) < _FEWEST_BATCHES or len(shares.names) > _MOST_CLASSES:
        return NotAssessed(rule.code, ("label_share and prediction_share of one label a row, in several batches",))
    weights = shares.rows[:, None]
    occurring = (shares.labels * weights).sum(axis=0) / weights.sum()
    largest = float(occurring.max())
    rare = (occurring > 0.0) & (occurring <= _RARE * largest)
    if not rare.any():
        return []
    last = max((int(track.steps[-1]) for track in tracks(run, "loss") if len(track)), default=int(shares.steps[-1]))
    late = shares.since(_SKIPPED * last)
    if not len(late.steps):
        return NotAssessed(rule.code, ("label_share and prediction_share late in the run",))
    known = ~np.isnan(late.predictions).any(axis=1)
    labelled = (late.labels * late.rows[:, None])[known].sum(axis=0)
    predicted = (late.predictions * late.rows[:, None])[known].sum(axis=0)
    had, got = float(labelled[rare].sum()), float(predicted[rare].sum())
    if got > _IGNORED * had or _chance(got, had) > _CHANCE:
        return []
    names = [name for name, is_rare in zip(shares.names, rare, strict=True) if is_rare]
    share, said = float(occurring[rare].sum()), float(got / max(float(predicted.sum()), 1e-12))
    majority = shares.names[int(np.argmax(occurring))]
    smallest = float(occurring[rare].min())
    weight = largest / float(np.median(occurring[rare]))
    accuracy = [track.finite().values for track in tracks(run, "accuracy")]
    level = float(np.median(accuracy[0][len(accuracy[0]) // 2 :])) if accuracy and accuracy[0].size else None
    return [
        Finding(
            code=rule.code,
            severity="warning",
            confidence=0.9 if _chance(got, had) <= _CHANCE**2 else 0.75,
            step=int(late.steps[0]),
            summary=(
                f"Rare classes are ignored: {listed(names)} {'has' if len(names) == 1 else 'have'} {share:.1%} of the"
                f" labels and {said:.1%} of the predictions; class {majority} has {largest:.0%} of the labels"
                + (f", accuracy is {level:.0%}." if level is not None else ".")
            ),
            remedy=(
                f"Give rare classes more weight: weight (pos_weight) about {number(weight)} in the loss, or a"
                " WeightedRandomSampler with one over the class's frequency; judge by recall of each class or balanced"
                f" accuracy, since always saying {majority} is right in {largest:.0%}."
            ),
            evidence={
                "series": ["label_share", "prediction_share"],
                "labels": names,
                "share_of_labels": share,
                "share_of_predictions": said,
                "largest_share": largest,
                "imbalance_ratio": largest / smallest,
                "effective_classes": float(np.exp(-(p := occurring[occurring > 0]) @ np.log(p))),
            },
            source=rule.source,
        )
    ]


def _chance(count: float, mean: float) -> float:
    """Chance of a Poisson count of at most `count`, given its mean."""
    terms = (number * math.log(mean) - math.lgamma(number + 1) - mean for number in range(int(count) + 1))
    return math.fsum(math.exp(term) for term in terms) if mean > 0.0 else 1.0


rule = FindingRule(
    code="class-imbalance",
    title="Rare classes are ignored",
    needs=("label_share", "prediction_share"),
    source="He & Garcia 2009, Learning from imbalanced data; Francazi et al. 2023, arXiv:2207.00391",
    assess=assess,
    caused_by=("dead-units", "diverging", "nonfinite", "loss-mismatch", "lr-too-high", "bad-init", "unshuffled-data"),
)
