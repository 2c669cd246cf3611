"""Inputs far from the scale for which networks are initialised.

Initialisations (LeCun, Xavier, He, torch's defaults) assume inputs of mean 0 and second moment 1. The first layer's
output scales with the input's RMS r, and the curvature of the loss in its weights with r^2, so the largest stable
learning rate falls as 1/r^2 while the biases keep their scale (LeCun et al. 1998). The thresholds are

- r > 10: the stable learning rate of the first layer is a hundred times smaller than that of the others. Pixels of 0
  to 255 have r near 100; pixels of 0 to 1, standardised features and audio have r between 0.05 and 2;
- r < 0.001: the input is a million times weaker than the biases in squares. Sparse inputs stay above: features that
  are 0 or 1 are recognised by their variance, mean * (1 - mean), and are fine at any density;
- spreads of the features (2-D inputs) that differ more than a thousandfold, with r > 3: columns in different units.
  Pixels of 0 to 1 that are almost always dark differ as much, hence the second condition.

A model that normalises for itself is fine: one whose first layer with weights is a normalisation, or whose first
weighted layer gives a tenth or less of the output RMS that its weights would give for this input (a division inside
`forward`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from separatrix.analysis.profiles import input_rms, is_normalisation, kinds, module_of, table
from separatrix.analysis.trends import median_of, number
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_LARGE = 10.0
_SMALL = 1e-3
_UNEVEN = 1000.0
_UNEVEN_AND_LARGE = 3.0
_BINARY = 0.05
_RESCALED = 0.1


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for the scale of the model's input."""
    mean, spread, rms = median_of(run, "input_mean"), median_of(run, "input_std"), input_rms(run)
    if mean is None or spread is None or rms is None:
        return NotAssessed(rule.code, ("finite values of input_mean and input_std",))
    uneven = median_of(run, "input_feature_std_ratio") or 1.0
    scale_is_off = rms > _LARGE or (rms < _SMALL and rms > 0 and not _is_binary(mean, spread))
    columns_are_off = uneven > _UNEVEN and rms > _UNEVEN_AND_LARGE
    if not (scale_is_off or columns_are_off) or _normalises_itself(run, rms):
        return []
    facts = f"mean {number(mean)}, standard deviation {number(spread)}"
    columns = f", feature spreads that differ {number(uneven)}-fold" if columns_are_off else ""
    distance = abs(math.log10(rms)) if scale_is_off else math.log10(uneven)
    series = ["input_mean", "input_std", *(["input_feature_std_ratio"] if columns_are_off else [])]
    fix = (
        f"subtract {number(mean)} and divide by {number(spread)}" if spread > 0 else "bring them to mean 0 and spread 1"
    )
    if columns_are_off:
        fix = "subtract each feature's mean and divide by its standard deviation over the training set"
    return [
        Finding(
            code=rule.code,
            severity="warning",
            confidence=round(min(0.95, 0.6 + 0.15 * distance), 3),
            step=0,
            summary=f"The inputs are not normalised: {facts}{columns}.",
            remedy=f"Normalise the inputs: {fix}; or start the model with a normalisation layer.",
            evidence={
                "series": series,
                "labels": [],
                "input_mean": mean,
                "input_std": spread,
                "input_rms": rms,
                "input_feature_std_ratio": uneven,
            },
            source=rule.source,
        )
    ]


def _is_binary(mean: float, spread: float) -> bool:
    variance = mean * (1.0 - mean)
    return 0.0 < mean < 1.0 and abs(spread**2 - variance) <= _BINARY * variance


def _normalises_itself(run: Run, rms: float) -> bool:
    order = list(kinds(run))
    weighted = [p for p in run.parameters if module_of(p) in order]
    if not weighted:
        return False
    first = min(weighted, key=lambda p: order.index(module_of(p)))
    module = module_of(first)
    if is_normalisation(kinds(run)[module]):
        return True
    weight = next((p for p in weighted if module_of(p) == module and len(p["shape"]) >= 2), None)
    if weight is None:
        return False
    _, outputs = table(run, "activation_rms").column(module)
    _, sizes = table(run, "weight_rms").column(str(weight["name"]))
    if not outputs.size or not sizes.size:
        return False
    fan_in = math.prod(weight["shape"][1:])
    expected = float(sizes[0]) * math.sqrt(fan_in) * rms
    return 0.0 < float(outputs[0]) <= _RESCALED * expected


rule = FindingRule(
    code="unnormalized-inputs",
    title="Inputs are not normalised",
    needs=("input_mean", "input_std"),
    source="LeCun, Bottou, Orr & Mueller 1998, Efficient BackProp, section 4.3",
    assess=assess,
)
