"""The model gives every input the same answer.

*Predictions*: `prediction_spread`, the spread of predictions between the examples of a batch over that of the targets,
is about the root of R² for a fitted model. Below 0.02 the inputs explain less than 4e-4 of the targets' variance, and
softmax of logits that differ by a hundredth of a nat stays there. It counts in runs of 100 steps or more, in the median
of the samples of the last third of the steps. So does one class that gets 99 % of the predictions while no class has
more than 80 % of the labels: beyond that share the matter is class-imbalance. A random but sane initialisation starts
above the threshold, so a spread that was five times higher once has collapsed; one that was never there was not learnt,
which is said with less confidence.

*Representations*, where no loss with targets of its own was heard, several losses oppose one another, or the targets of
a squared or absolute error are made by the model itself, since their spread changed by half or more since the first
sample (contrastive and siamese training, GAN, distillation of oneself). Looked at is the last weighted layer of a
model; normalisation and critics with a single output are left out. `batch_variance_share`, the share of its output's
second moment that varies over the batch, is of order 1 at the start, and below 1e-3 when what is left is a constant
vector: the inputs then turn it by less than two degrees. It must have been ten times higher before; samples count from
a third of the steps on, since nothing pulls such a vector apart again. Of what a squared or absolute error is given the
same share is known at every sample (`prediction_variance_share`) and is looked at first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from separatrix.analysis.batches import class_shares
from separatrix.analysis.profiles import is_normalisation, kinds, module_of, table
from separatrix.analysis.trends import Floats, Integers, learning_rate, loss_tracks, median_of, number, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_NO_SPREAD = 0.02
_FELL = 5.0
_ONE_CLASS = 0.99
_MAJORITY = 0.8
_CONSTANT = 1e-3
_CONSTANT_FELL = 10.0
_FEWEST_STEPS = 100
_FEWEST_SAMPLES = 2
_CHANGED = 1.5
_ELEMENTWISE = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
_LATE = 2.0 / 3.0
_LATE_OF_LAYERS = 1.0 / 3.0


@dataclasses.dataclass(frozen=True)
class _Case:
    series: tuple[str, ...]
    labels: tuple[str, ...]
    step: int
    fell: bool
    said: str
    numbers: dict[str, float]


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding, of predictions before representations."""
    spread = [t.finite() for name in ("prediction_spread", "prediction_variance_share") for t in tracks(run, name)]
    layers = table(run, "batch_variance_share")
    enough = any(len(t) >= _FEWEST_SAMPLES for t in spread) or len(layers.steps) >= _FEWEST_SAMPLES
    if not enough:
        return NotAssessed(rule.code, (f"prediction_spread or batch_variance_share at {_FEWEST_SAMPLES} steps",))
    last = max((int(t.steps[-1]) for t in tracks(run, "loss") if len(t)), default=0)
    if last < _FEWEST_STEPS:
        return []
    late, opposed = _LATE * last, loss_tracks(run)[1]
    case = None if opposed else _predictions(run, late) or _one_class(run, late)
    case = case or _representation(run, opposed, _LATE_OF_LAYERS * last)
    return [] if case is None else [_finding(run, case)]


def _predictions(run: Run, since: float) -> _Case | None:
    spread = [t.finite() for t in tracks(run, "prediction_spread")]
    if not spread or len(spread[0]) < _FEWEST_SAMPLES or spread[0].steps[-1] < since:
        return None
    steps, values = spread[0].steps, spread[0].values
    late, highest = float(np.median(values[steps >= since])), float(values.max())
    if late >= _NO_SPREAD:
        return None
    above = np.flatnonzero(values >= max(_NO_SPREAD, highest / _FELL))
    onset = int(steps[min(above[-1] + 1, len(steps) - 1)]) if above.size else int(steps[0])
    return _Case(
        ("prediction_spread",),
        (),
        onset,
        highest >= _FELL * max(late, _NO_SPREAD / _FELL),
        f"Predictions differ between inputs by {number(late)} of what the targets differ by: all inputs get the same"
        " answer.",
        {"prediction_spread": late, "highest_spread": highest},
    )


def _one_class(run: Run, since: float) -> _Case | None:
    shares = class_shares(run)
    if shares is None or len(shares.steps) < _FEWEST_SAMPLES:
        return None
    late = shares.since(since)
    if (
        not len(late.steps)
        or np.isnan(late.predictions).any()
        or late.labels.mean(axis=0).max() > _MAJORITY
        or len(shares.names) < 2
    ):
        return None
    mean = late.predictions.mean(axis=0)
    chosen = int(np.argmax(mean))
    if mean[chosen] < _ONE_CLASS:
        return None
    below = np.flatnonzero(shares.predictions[:, chosen] < _ONE_CLASS)
    onset = int(shares.steps[min(below[-1] + 1, len(shares.steps) - 1)]) if below.size else int(shares.steps[0])
    share = float(late.labels.mean(axis=0)[chosen])
    return _Case(
        ("prediction_share", "label_share"),
        (),
        onset,
        bool(below.size),
        f"{mean[chosen]:.0%} of the predictions are class {shares.names[chosen]}, which has {share:.0%} of the labels.",
        {"prediction_share": float(mean[chosen]), "label_share": share},
    )


def _representation(run: Run, opposed: bool, since: float) -> _Case | None:
    if run.losses and not opposed and not _targets_are_learnt(run):
        return None
    name, layers = "prediction_variance_share", table(run, "batch_variance_share")
    courses: list[tuple[str, tuple[str, ...], Integers, Floats]] = []
    if not opposed:
        courses += [(name, (), track.steps, track.values) for track in (t.finite() for t in tracks(run, name))]
    courses += [("batch_variance_share", (label,), *layers.column(label)) for label in _last_layers(run)]
    for series, labels, steps, values in courses:
        if len(values) < _FEWEST_SAMPLES or steps[-1] < since:
            continue
        late, highest = float(np.median(values[steps >= since])), float(values.max())
        if late >= _CONSTANT or highest < max(_CONSTANT, _CONSTANT_FELL * late):
            continue
        above = np.flatnonzero(values >= _CONSTANT)
        onset = int(steps[min(above[-1] + 1, len(steps) - 1)]) if above.size else int(steps[0])
        what = f"The output of {labels[0]}" if labels else "What the loss compares"
        return _Case(
            (series,),
            labels,
            onset,
            True,
            f"{what} is the same for all inputs: {number(late)} of its second moment varies over the"
            f" batch, {number(highest)} at most before.",
            {series: late, "highest_share": highest},
        )
    return None


def _targets_are_learnt(run: Run) -> bool:
    """Whether the targets of an elementwise loss change their spread in training, as data do not."""
    spread = [t.finite() for t in tracks(run, "target_std")]
    if run.losses[0]["name"] not in _ELEMENTWISE or not spread or len(spread[0]) < _FEWEST_SAMPLES:
        return False
    first, late = float(spread[0].values[0]), float(np.median(spread[0].values[len(spread[0]) // 2 :]))
    return max(first, late) > _CHANGED * min(first, late)


def _last_layers(run: Run) -> list[str]:
    """The last weighted layer of each model with more than one output, in order of definition."""
    kind_of = kinds(run)
    widths = {module_of(p): int(p["shape"][0]) for p in run.parameters if len(p["shape"]) >= 2}
    weighted = [name for name in kind_of if name in widths and not is_normalisation(kind_of[name])]
    models = len(run.config.get("models", ())) > 1 or loss_tracks(run)[1]
    last = {(name.split(".")[0] if models else ""): name for name in weighted}
    return [name for name in last.values() if widths[name] > 1]


def _finding(run: Run, case: _Case) -> Finding:
    rate, norm = learning_rate(run, case.step), median_of(run, "gradient_norm")
    facts = (f" (learning rate {number(rate)}" + (f", gradient norm {number(norm)})" if norm else ")")) if rate else ""
    if case.series[0].endswith("variance_share"):
        place = f" of {case.labels[0]}" if case.labels else ""
        remedy = (
            f"See what keeps outputs{place} apart: negative pairs or a margin in a contrastive loss, a"
            " stop of the gradient and a predictor without them, minibatch statistics or a weaker critic in a GAN;"
            f" collapse began by step {case.step}{facts}."
        )
    else:
        remedy = (
            f"Look at what happens by step {case.step}{facts}: a term of the loss that outweighs the error (KL weight,"
            " entropy bonus, weight decay), dead units, a learning rate too high, or labels that do not belong to the"
            " inputs."
        )
    return Finding(
        code=rule.code,
        severity="error" if case.fell else "warning",
        confidence=0.9 if case.fell else 0.75,
        step=case.step,
        summary=case.said,
        remedy=remedy,
        evidence={"series": list(case.series), "labels": list(case.labels), "collapsed": case.fell, **case.numbers},
        source=rule.source,
    )


rule = FindingRule(
    code="collapsed-output",
    title="All inputs get the same answer",
    needs=(),
    source="Chen & He 2021, arXiv:2011.10566; Bowman et al. 2016, arXiv:1511.06349; Goodfellow 2016, arXiv:1701.00160",
    assess=assess,
    caused_by=(
        "loss-mismatch",
        "frozen-parameters",
        "dead-units",
        "diverging",
        "nonfinite",
        "exploding-gradient",
        "vanishing-gradient",
        "unnormalized-inputs",
        "lr-too-high",
        "lr-too-low",
        "bad-init",
        "saturated-units",
        "weight-decay-dominates",
        "unshuffled-data",
        "class-imbalance",
        "attention-entropy-collapse",
        "missing-zero-grad",
        "scheduler-misuse",
        "clipping-always-active",
        "epsilon-underflow",
    ),
)
