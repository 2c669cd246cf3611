"""Gradients shrink towards the input, through layers or through time, so that what comes early hardly learns.

Looked at relatively, never absolutely: the profile over depth of each weight's gradient relative to the weight, and
of the biases' gradients, per optimizer (medians over the sampled steps). It vanishes when, over at least four layers,
the first third lies a thousand times below the last third and depth and level rise together (Spearman at least 0.8).

Why a thousand: in networks whose signal propagates well (He, Xavier, residual, normalised) the profile stays within a
factor of about 30, caused by unequal widths. A sigmoid multiplies the backward signal by at most 1/4 a layer; five
such layers give 4^-5 = 1e-3. Below 1e-7, the resolution of float32, early layers cannot learn next to the late ones
at any common learning rate: an error.

Gradients that are exactly zero (dead units, a zero initialisation) say nothing about decay and are left out. A single
measurement is enough for a finding of lower confidence.

*Through time*: the gradient that reaches the first third of the times of a sequence lies a thousand times below that of
the last third (`early_gradient_ratio`, median of the first half of its measurements; torch's recurrent modules by their
input, other modules by their calls). At the start that is so in most recurrent networks over fifty times and more, and
costs nothing where what matters is near. So it counts only where the training gets nowhere: no tenth of the run has a
mean loss below 90 % of the start. Where something was learnt, what is left may as well be noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.profiles import DepthProfile, gradient_profiles, table
from separatrix.analysis.progress import progress
from separatrix.analysis.trends import number, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_RATIO = 1e-3
_RESOLUTION = 1e-7
_TREND = 0.8
_FEWEST_LAYERS = 4
_FLAT = 0.9


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding: for the profile that vanishes most, else for the module whose early times get least."""
    if not run.parameters:
        return NotAssessed(rule.code, ("parameters",))
    return _through_layers(run) or _through_time(run)


def _through_layers(run: Run) -> list[Finding]:
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


def _through_time(run: Run) -> list[Finding]:
    loss = progress(run)
    if loss is None or loss.levels.min() < _FLAT * loss.start:
        return []
    measured = [track.finite() for track in tracks(run, "early_gradient_ratio")]
    early = {t.label: float(np.median(t.values[: (len(t) + 1) // 2])) for t in measured if len(t)}
    if not early or min(early.values()) > _RATIO:
        return []
    name = min(early, key=lambda label: early[label])
    return [
        Finding(
            code=rule.code,
            severity="warning",
            confidence=0.8,
            step=int(measured[0].steps[0]),
            summary=(
                f"Gradients shrink through time: the first third of the times{f' of {name}' if name else ''} gets"
                f" {number(early[name])} of what the last third gets, and {loss.left:.0%} of the loss is left."
            ),
            remedy=(
                "Use an LSTM or GRU with a large initial forget bias, an orthogonal or identity recurrent matrix,"
                " attention over all times, or shorter sequences: what comes early cannot be learnt so."
            ),
            evidence={
                "series": ["early_gradient_ratio", "loss"],
                "labels": [name] if name else [],
                "ratio": early[name],
                "loss_left": loss.left,
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
    source=(
        "Glorot & Bengio 2010 (AISTATS); Hochreiter 1998; He et al. 2015, arXiv:1502.01852; Pascanu et al. 2013,"
        " arXiv:1211.5063"
    ),
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
