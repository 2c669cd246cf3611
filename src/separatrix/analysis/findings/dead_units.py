"""Units whose output is zero for every example: they pass no gradient and cannot come back by themselves.

A layer counts when at least half of its units are dead in the median of its last three measurements. With He or
default initialisation and inputs of zero mean a unit is silent for all of n independent examples with probability
near 2^-n, so hardly any are dead at the start; well-trained wide networks end with 5 to 30 % dead units, which costs
capacity but does not stop learning. When half are dead, the signal's second moment is halved once more than the
initialisation allows for, in every such layer. From 90 % on the layer is a bottleneck, and when all are dead nothing
below it learns: an error.

Half of a ReLU's units are zero for one example by construction, hence a window of at least 32 examples (batch size
times sampled steps) is asked for. Only rectifiers and layers with weights count: pooling, dropout and reshaping
repeat the zeros of their input, embeddings and one-hot inputs are sparse by design. With a single measurement only
rectifiers count, since layers may be initialised to zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.profiles import kinds, medians, table
from separatrix.analysis.trends import learning_rate, listed, median_of, number
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_DEAD = 0.5
_BOTTLENECK = 0.9
_ALL = 0.999
_RECENT = 3
_FEWEST_EXAMPLES = 32
_REPEATERS = (
    "dropout",
    "pool",
    "flatten",
    "identity",
    "embedding",
    "pad",
    "norm",
    "upsample",
    "shuffle",
    "onehot",
    "loss",
)


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for all layers with too many dead units."""
    shares = table(run, "dead_unit_share")
    batch = median_of(run, "batch_size")
    if batch is not None and batch * len(shares.steps) < _FEWEST_EXAMPLES:
        return NotAssessed(rule.code, (f"dead_unit_share over at least {_FEWEST_EXAMPLES} examples",))
    kind_of = kinds(run)
    found: dict[str, tuple[float, int]] = {}
    for label in sorted(shares.labels, key=lambda name: list(kind_of).index(name) if name in kind_of else len(kind_of)):
        steps, values = shares.column(label)
        kind = kind_of.get(label, "").lower()
        if any(word in kind for word in _REPEATERS) or (len(values) < 2 and "relu" not in kind):
            continue
        share = float(np.median(values[-_RECENT:]))
        if share >= _DEAD:
            alive = np.flatnonzero(values < _DEAD)
            found[label] = (share, int(steps[min(alive[-1] + 1, len(steps) - 1)] if alive.size else steps[0]))
    if not found:
        return []
    worst = max(found, key=lambda label: found[label][0])
    share = found[worst][0]
    step = min(onset for _, onset in found.values())
    from_start = step <= int(shares.steps[0])
    when = "from the first measurement on" if from_start else f"since step {step}"
    place = _place(run, worst)
    others = f" (layers: {listed(list(found))})" if len(found) > 1 else ""
    return [
        Finding(
            code=rule.code,
            severity="error" if share >= _ALL else "warning",
            confidence=0.95 if share >= _BOTTLENECK else 0.8,
            step=step,
            summary=f"{share:.0%} of the units {place} are zero for every example, {when}{others}.",
            remedy=_remedy(run, place, step, from_start),
            evidence={
                "series": ["dead_unit_share"],
                "labels": list(found),
                "dead_unit_share": {label: value for label, (value, _) in found.items()},
                "onset": {label: onset for label, (_, onset) in found.items()},
            },
            source=rule.source,
        )
    ]


def _place(run: Run, label: str) -> str:
    """Where the units stand: a layer with weights shows those of a functional activation that feeds it."""
    feeds = any(parameter.get("module") == label for parameter in run.parameters)
    return f"feeding {label}" if feeds else f"of {label}"


def _remedy(run: Run, place: str, step: int, from_start: bool) -> str:
    if from_start:
        return (
            f"Check the initialisation before the units {place} (biases far below 0, tiny weights) and the scale of"
            " the inputs; He initialisation with zero biases and inputs of mean 0 keeps units alive,"
            " LeakyReLU or GELU revive them."
        )
    rate, ratios = learning_rate(run, step), medians(table(run, "update_ratio"))
    lower = (
        f"Lower the learning rate (now {number(rate)}, try {number(rate / 10)})" if rate else "Lower the learning rate"
    )
    largest = f", since updates reach {number(max(ratios.values()))} of the weights a step" if ratios else ""
    return f"{lower}{largest}, or warm it up before step {step}; LeakyReLU or GELU let dead units recover."


rule = FindingRule(
    code="dead-units",
    title="Dead units",
    needs=("dead_unit_share",),
    source="Lu et al. 2019, arXiv:1903.06733; He et al. 2015, arXiv:1502.01852",
    assess=assess,
    caused_by=(
        "diverging",
        "loss-spike",
        "exploding-gradient",
        "unnormalized-inputs",
        "missing-zero-grad",
        "nonfinite",
        "lr-too-high",
        "bad-init",
        "scheduler-misuse",
        "unshuffled-data",
        "collapsed-output",
        "loss-mismatch",
    ),
)
