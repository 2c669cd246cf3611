"""Gradients shrink from layer to layer towards the input, so that early layers hardly learn.

Looked at relatively, never absolutely: the profile over depth of each weight's gradient relative to the weight, and
of the biases' gradients, per optimizer (medians over the sampled steps). It vanishes when, over at least four layers,
the first third lies a thousand times below the last third and depth and level rise together (Spearman at least 0.8).

Why a thousand: in networks whose signal propagates well (He, Xavier, residual, normalised) the profile stays within a
factor of about 30, caused by unequal widths. A sigmoid multiplies the backward signal by at most 1/4 a layer; five
such layers give 4^-5 = 1e-3. Below 1e-7, the resolution of float32, early layers cannot learn next to the late ones
at any common learning rate: an error.

Gradients that are exactly zero (dead units, a zero initialisation) say nothing about decay and are left out. A single
measurement is enough for a finding of lower confidence.
"""

from __future__ import annotations

from collections.abc import Sequence

from separatrix.analysis.profiles import DepthProfile, gradient_profiles, table
from separatrix.analysis.trends import number
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_RATIO = 1e-3
_RESOLUTION = 1e-7
_TREND = 0.8
_FEWEST_LAYERS = 4


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for the profile that vanishes most, if any."""
    if not run.parameters:
        return NotAssessed(rule.code, ("parameters",))
    profiles = gradient_profiles(run, _FEWEST_LAYERS)
    steps = table(run, "gradient_rms").steps
    single = len(steps) == 1
    found = [p for p in profiles if _vanishes(p)]
    if not found:
        return []
    worst = min(found, key=lambda p: p.ratio)
    return [
        Finding(
            code=rule.code,
            severity="error" if worst.ratio < _RESOLUTION else "warning",
            confidence=0.7 if single else 0.9,
            step=int(steps[0]),
            summary=(
                f"Gradients shrink towards the input: those of {worst.labels[0]} are {number(worst.levels[0])},"
                f" those of {worst.labels[-1]} {number(worst.levels[-1])} ({worst.quantity})."
            ),
            remedy=_remedy(worst),
            evidence={
                "series": ["gradient_rms"],
                "labels": list(worst.labels),
                "quantity": worst.quantity,
                "levels": list(worst.levels),
                "ratio": worst.ratio,
                "trend": worst.trend,
            },
            source=rule.source,
        )
    ]


def _vanishes(profile: DepthProfile) -> bool:
    return profile.ratio <= _RATIO and profile.trend >= _TREND


def _remedy(profile: DepthProfile) -> str:
    per_layer = profile.ratio ** (1 / max(len(profile.labels) * 2 // 3, 1))
    return (
        f"Layers pass back about {number(per_layer)} of the gradient: use ReLU or GELU, not saturating activations,"
        " an initialisation that matches them (He, Xavier), residual connections or normalisation layers."
    )


rule = FindingRule(
    code="vanishing-gradient",
    title="Vanishing gradient",
    needs=("gradient_rms",),
    source="Glorot & Bengio 2010 (AISTATS); Hochreiter 1998; He et al. 2015, arXiv:1502.01852",
    assess=assess,
    caused_by=(
        "nonfinite",
        "diverging",
        "lr-too-high",
        "bad-init",
        "saturated-units",
        "dead-units",
        "weight-decay-dominates",
        "loss-mismatch",
    ),
)
