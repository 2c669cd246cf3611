"""Gradients grow by orders of magnitude, through the layers or over time.

*Through the layers*: the profile over depth (see vanishing-gradient) of weights' relative gradients or biases'
gradients rises towards the input by at least a thousandfold, with depth and level falling together (Spearman at most
-0.8; -0.5 for three layers, where only a few values are possible). Well-propagating networks stay within a factor of
about 30.

*Over time*: a gradient norm exceeds a hundred times the median of all norms before it (at least five), and by six
robust standard deviations of their logarithm, so that batches of one example, whose norms spread over decades by
nature, do not count. And it does harm: within the next five steps the loss exceeds all of the previous twenty and is
at least double their median. Without the last condition every escape from a plateau would count: there the norm grows
while the loss falls. Clipping hides the harm, then nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.profiles import DepthProfile, gradient_profiles, table
from separatrix.analysis.trends import Track, learning_rate, number, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_RATIO = 1e3
_TREND = -0.8
_TREND_OF_THREE = -0.5
_FEWEST_LAYERS = 3
_GROWTH = 100.0
_DEVIATIONS = 6.0
_GAUSSIAN_MAD = 1.4826
_HISTORY = 5
_LOSSES_BEFORE = 20
_STEPS_AFTER = 5
_HARM = 2.0


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding: over time where that is seen, else through the layers."""
    norms = gradient_norms(run)
    profiles = gradient_profiles(run, _FEWEST_LAYERS)
    if not profiles and max(map(len, norms), default=0) <= _HISTORY:
        return NotAssessed(rule.code, ("gradient_norm or gradient_rms",))
    candidates = (_over_time(run, norms), _through_layers(run, profiles))
    return sorted((f for f in candidates if f is not None), key=lambda finding: finding.step or 0)[:1]


def gradient_norms(run: Run) -> tuple[Track, ...]:
    """The gradient norm: as recorded, else from the RMS of all parameters at steps where all were measured."""
    recorded = tuple(track.finite() for track in tracks(run, "gradient_norm"))
    if recorded or not run.parameters:
        return recorded
    gradients = table(run, "gradient_rms")
    sizes = {str(p["name"]): float(p.get("numel", 1)) for p in run.parameters}
    weights = np.array([sizes.get(label, 1.0) for label in gradients.labels])
    norms = np.sqrt((gradients.values**2 * weights).sum(axis=1))
    return (Track("", gradients.steps, norms).finite(),) if len(weights) else ()


def _over_time(run: Run, norms: Sequence[Track]) -> Finding | None:
    losses = [track.finite() for track in tracks(run, "loss")]
    for track in norms:
        logs = np.log(np.maximum(track.values, np.finfo(np.float64).tiny))
        for index in _candidates(logs):
            step = int(track.steps[index])
            usual = float(np.median(track.values[:index]))
            if not any(_harmed(loss, step) for loss in losses):
                continue
            return Finding(
                code=rule.code,
                severity="error" if not any(_healed(loss, step) for loss in losses) else "warning",
                confidence=0.85,
                step=step,
                summary=(
                    f"The gradient norm reached {number(float(track.values[index]))} at step {step},"
                    f" {number(float(track.values[index]) / usual)} times its usual {number(usual)}, and the loss rose."
                ),
                remedy=_remedy(run, step, usual),
                evidence={
                    "series": ["gradient_norm" if "gradient_norm" in run else "gradient_rms", "loss"],
                    "labels": [track.label] if track.label else [],
                    "norm": float(track.values[index]),
                    "usual_norm": usual,
                    "how": "over time",
                },
                source=rule.source,
            )
    return None


def _candidates(logs: np.ndarray) -> list[int]:
    """Indices whose log-norm stands out from all before; the spread is looked at only where the norm is high enough."""
    found = []
    high = np.flatnonzero(logs > logs[: _HISTORY + 1].min(initial=np.inf) + np.log(_GROWTH))
    for index in map(int, high[high >= _HISTORY]):
        before = logs[:index]
        middle = float(np.median(before))
        spread = _GAUSSIAN_MAD * float(np.median(np.abs(before - middle)))
        if logs[index] - middle > max(np.log(_GROWTH), _DEVIATIONS * spread):
            found.append(index)
        if len(found) >= _LOSSES_BEFORE:
            break
    return found


def _harmed(loss: Track, step: int) -> bool:
    before = loss.values[loss.steps <= step][-_LOSSES_BEFORE:]
    after = loss.values[(loss.steps > step) & (loss.steps <= step + _STEPS_AFTER)]
    if not before.size or not after.size:
        return False
    middle = float(np.median(before))
    return bool(after.max() > before.max() and after.max() - middle >= (_HARM - 1) * abs(middle))


def _healed(loss: Track, step: int) -> bool:
    before, after = loss.values[loss.steps <= step], loss.values[loss.steps > step]
    return bool(after.size and float(after[-1]) <= float(before.max()))


def _through_layers(run: Run, profiles: Sequence[DepthProfile]) -> Finding | None:
    found = [p for p in profiles if _explodes(p)]
    if not found:
        return None
    worst = max(found, key=lambda p: p.ratio)
    step = int(table(run, "gradient_rms").steps[0])
    per_layer = worst.ratio ** (1 / max(len(worst.labels) * 2 // 3, 1))
    return Finding(
        code=rule.code,
        severity="warning",
        confidence=0.85 if len(worst.labels) > _FEWEST_LAYERS else 0.7,
        step=step,
        summary=(
            f"Gradients grow towards the input: those of {worst.labels[0]} are {number(worst.levels[0])},"
            f" those of {worst.labels[-1]} {number(worst.levels[-1])} ({worst.quantity}, {len(worst.labels)} layers)."
        ),
        remedy=(
            f"Each layer multiplies the gradient by about {number(per_layer)}: shrink the initial weights by it"
            " (He or Xavier initialisation), add normalisation layers or residual connections, clip the norm."
        ),
        evidence={
            "series": ["gradient_rms"],
            "labels": list(worst.labels),
            "quantity": worst.quantity,
            "levels": list(worst.levels),
            "ratio": worst.ratio,
            "trend": worst.trend,
            "how": "through the layers",
        },
        source=rule.source,
    )


def _explodes(profile: DepthProfile) -> bool:
    few = len(profile.labels) <= _FEWEST_LAYERS
    return profile.ratio >= _RATIO and profile.trend <= (_TREND_OF_THREE if few else _TREND)


def _remedy(run: Run, step: int, usual: float) -> str:
    rate = learning_rate(run, step)
    lower = f", or lower the learning rate (now {number(rate)}, try {number(rate / 3)})" if rate else ""
    return f"Clip the gradient norm near its usual {number(usual)} (torch.nn.utils.clip_grad_norm_){lower}."


rule = FindingRule(
    code="exploding-gradient",
    title="Exploding gradient",
    needs=(),
    source="Pascanu et al. 2013, arXiv:1211.5063; Glorot & Bengio 2010 (AISTATS)",
    assess=assess,
    caused_by=("diverging", "missing-zero-grad", "unnormalized-inputs", "loss-mismatch", "attention-logit-growth"),
)
