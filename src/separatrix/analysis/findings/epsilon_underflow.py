"""Adam's epsilon exceeds the root of its second moment: it no longer adapts, and steps shrink with the gradient.

Adam divides by sqrt(v) + eps. Where sqrt(v) is far above eps a step has the size of the learning rate whatever the
gradient's scale; where it is far below, Adam is SGD with momentum and the rate lr / eps, and a step is sqrt(v) / eps
times what the learning rate says.

A parameter counts when eps exceeds sqrt(v) for at least half of its entries and the root of the mean of v is below
three times eps: the second condition leaves out sparse gradients (dead units, pixels that are always dark, rare
tokens), whose few entries are large. The finding needs half of all entries of the weights (embeddings aside), in the
median of the measurements in the first half of the run, since a fitted network has gradients near zero by right.
Moments of zero, as behind a zero initialisation, are left out. It is a warning where the loss stays above a tenth of
its start, worth knowing elsewhere: some choose a large epsilon on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.profiles import table
from separatrix.analysis.progress import matrices, progress
from separatrix.analysis.trends import learning_rate, listed, median_of, number
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_HALF = 0.5
_NEAR = 3.0
_UNFINISHED = 0.1
_ROOM = 100.0


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for all parameters in which epsilon takes over."""
    epsilon = median_of(run, "epsilon")
    roots, shares = table(run, "adam_second_moment_rms"), table(run, "epsilon_share")
    weights = set(matrices(run)) & set(shares.labels)
    last = max((int(run.series("loss").steps[-1]) if "loss" in run else 0, int(shares.steps[-1])))
    early = shares.steps <= max(1, last // 2)
    if epsilon is None or not weights or not early.any():
        return NotAssessed(rule.code, ("epsilon, and epsilon_share of weights in the first half of the run",))
    sizes = {str(p["name"]): float(p.get("numel", 1)) for p in run.parameters}
    small: dict[str, float] = {}
    for label in sorted(weights):
        share = _early_median(shares.values[:, shares.labels.index(label)][early])
        steps, values = roots.column(label)
        root = _early_median(values[(values > 0) & (steps <= max(1, last // 2))])
        if share >= _HALF and root < _NEAR * epsilon:
            small[label] = root
    part = sum(sizes[label] for label in small) / sum(sizes[label] for label in weights)
    if part < _HALF:
        return []
    loss = progress(run)
    costs = loss is None or not loss.left <= _UNFINISHED
    root = float(np.median(list(small.values())))
    shrink = root / (root + epsilon)
    return [
        Finding(
            code=rule.code,
            severity="warning" if costs else "info",
            confidence=0.9 if loss is not None else 0.7,
            step=int(shares.steps[early][0]),
            summary=(
                f"Adam's epsilon {number(epsilon)} exceeds the root of the second moment, {number(root)}, in"
                f" {part:.0%} of the weights ({listed(list(small))}): steps are {number(shrink)} of full length."
            ),
            remedy=_remedy(run, epsilon, root),
            evidence={
                "series": [n for n in ("epsilon_share", "adam_second_moment_rms", "epsilon") if n in run],
                "labels": list(small),
                "epsilon": epsilon,
                "suggested": root / _ROOM,
                "root_of_second_moment": root,
                "share_of_weights": part,
            },
            source=rule.source,
        )
    ]


def _early_median(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")


def _remedy(run: Run, epsilon: float, root: float) -> str:
    rate = learning_rate(run, None)
    now = f"; now Adam is SGD with the learning rate {number(rate / epsilon)}" if rate else ""
    smaller = f"Set epsilon to {number(root / _ROOM)} or below"
    if epsilon <= 1e-7:
        scale = number(_ROOM * epsilon / root)
        return f"Scale the loss (or its targets) up by {scale} or more, as in a mean instead of a tiny weight{now}."
    return f"{smaller}, a hundredth of the gradients' size, or scale the loss up{now}."


rule = FindingRule(
    code="epsilon-underflow",
    title="Adam's epsilon exceeds the gradients",
    needs=("epsilon_share",),
    source="Kingma & Ba 2015, arXiv:1412.6980, algorithm 1; Wortsman et al. 2023, arXiv:2309.14322, section 3.4",
    assess=assess,
    caused_by=("vanishing-gradient", "dead-units", "clipping-always-active"),
)
