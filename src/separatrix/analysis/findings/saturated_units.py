"""Units of tanh or sigmoid that sit in the flat part of their function, where hardly any gradient passes.

An output within half a per cent of a bound keeps under 2 % of the largest slope. A layer counts when at least half of
its outputs are there in the median of its last three measurements: with inputs of unit variance and Glorot's weights
2 % of tanh's outputs would be, and with weights so large that the input's deviation is 3 it is a third. Two such layers
pass less than a third of the signal on, four less than a tenth.

It is a warning where it held from the first measurement on (the initialisation or the inputs made it: such a layer is
close to a fixed random one), or while the loss stays above a quarter of its start. Layers that saturate as the training
succeeds, as gates and codes do, are worth knowing at most, and only from 90 % on. The last layer of a model is left
out: an answer may be certain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.profiles import input_rms, kinds, medians, table
from separatrix.analysis.progress import progress
from separatrix.analysis.trends import learning_rate, listed, loss_tracks, number
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_SATURATED = 0.5
_ALL_BUT = 0.9
_UNFINISHED = 0.25
_RECENT = 3


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for all layers that are saturated."""
    shares = table(run, "saturation_share")
    if not np.isfinite(shares.values).any():
        return NotAssessed(rule.code, ("finite values of saturation_share",))
    order = list(kinds(run))
    hidden = [label for label in shares.labels if not (order and label == order[-1] and _is_output(run, label))]
    found: dict[str, tuple[float, int]] = {}
    for label in sorted(hidden, key=lambda name: order.index(name) if name in order else len(order)):
        steps, values = shares.column(label)
        values, steps = values[np.isfinite(values)], steps[np.isfinite(values)]
        if not values.size:
            continue
        share = float(np.median(values[-_RECENT:]))
        if share >= _SATURATED:
            free = np.flatnonzero(values < _SATURATED)
            found[label] = (share, int(steps[min(free[-1] + 1, len(steps) - 1)] if free.size else steps[0]))
    if not found:
        return []
    worst = max(found, key=lambda label: found[label][0])
    share, step = found[worst][0], min(onset for _, onset in found.values())
    from_start = step <= int(shares.steps[0])
    costs = from_start or _left(run) > _UNFINISHED
    if not costs and share < _ALL_BUT:
        return []
    when = "from the first measurement on" if from_start else f"since step {step}"
    others = f" (layers: {listed(list(found))})" if len(found) > 1 else ""
    return [
        Finding(
            code=rule.code,
            severity="warning" if costs else "info",
            confidence=0.9 if from_start and share >= _ALL_BUT else 0.8,
            step=step,
            summary=f"{share:.0%} of the outputs at {worst} are in the flat part of their function, {when}{others}.",
            remedy=_remedy(run, step, from_start),
            evidence={
                "series": ["saturation_share"],
                "labels": list(found),
                "saturation_share": {label: value for label, (value, _) in found.items()},
                "onset": {label: onset for label, (_, onset) in found.items()},
            },
            source=rule.source,
        )
    ]


def _left(run: Run) -> float:
    """The loss at the end over its start, of few losses too; 0 where it is not known."""
    loss, (few, opposed) = progress(run), loss_tracks(run)
    if loss is not None or opposed or not few or len(few[0]) < 2 or few[0].values.min() <= 0:
        return 0.0 if loss is None else loss.left
    return float(few[0].values[-1] / few[0].values[0])


def _is_output(run: Run, label: str) -> bool:
    """Whether a module shows its own activation: one with weights shows that of what feeds it."""
    return not any(parameter.get("module") == label for parameter in run.parameters)


def _remedy(run: Run, step: int, from_start: bool) -> str:
    if not from_start:
        rate, ratios = learning_rate(run, step), medians(table(run, "update_ratio"))
        largest = f" (updates reach {number(max(ratios.values()))} of the weights a step)" if ratios else ""
        lower = f"Lower the learning rate (now {number(rate)}{largest})" if rate else "Lower the learning rate"
        return f"{lower}, or normalise what enters the layer (LayerNorm, BatchNorm)."
    scale = input_rms(run)
    inputs = f", bring the inputs (RMS {number(scale)}) to RMS 1" if scale is not None and scale > 2 else ""
    return (
        f"Draw the weights with Glorot's variance 2 / (fan in + fan out){inputs}, or put a normalisation in front of"
        " the function; ReLU and GELU have no upper bound."
    )


rule = FindingRule(
    code="saturated-units",
    title="Saturated units",
    needs=("saturation_share",),
    source="Glorot & Bengio 2010 (AISTATS), section 3; LeCun et al. 1998, Efficient BackProp, section 4.6",
    assess=assess,
    caused_by=(
        "unnormalized-inputs",
        "bad-init",
        "lr-too-high",
        "diverging",
        "loss-spike",
        "exploding-gradient",
        "missing-zero-grad",
        "nonfinite",
    ),
)
