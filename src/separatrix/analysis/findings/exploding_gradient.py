"""Gradients grow by orders of magnitude: through the layers, from the start, or over time.

*Through the layers*: the profile over depth (see vanishing-gradient) of weights' relative gradients or biases'
gradients rises towards the input by at least a thousandfold, with depth and level falling together (Spearman at most
-0.8; -0.5 for three layers, where only a few values are possible). Well-propagating networks stay within a factor of
about 30.

*From the start*, where depth is not in layers but in time or in branches (recurrent and residual networks): the
sensitivity |gradient| |weight| / loss, taken over parameters as a root of squares. It is the relative change of the
loss by a small relative change of the weights, has no units, and does not depend on the scale of loss or weights. A
network whose output is homogeneous of degree D in its weights and passes signals at their size has a sensitivity of the
order of D; networks that train well start between 0.1 and 20. Optimizers change weights by 1e-3 to 1e-2 of their size a
step, so from 100 to 1000 on no step is small: the threshold is the geometric mean, 300. Losses without a natural zero
(negative values, games) are left out, and only the first measurement counts: near a perfect fit the loss vanishes
before its gradient does. Where the loss never doubled and ended below half its start, steps were small enough for it:
that is worth knowing and no more.

*Over time*: a gradient norm exceeds a hundred times the median of all norms before it (at least five), by more than the
loss of that step exceeds its own median (a wild batch has a high loss and a high gradient, and is another matter), and
by six robust standard deviations of their logarithm, so that batches of one example, whose norms spread over decades by
nature, do not count. And it does harm: within the next five steps the loss exceeds all of the previous twenty and is
at least double their median. Without the last condition every escape from a plateau would count: there the norm grows
while the loss falls. Clipping hides the harm, then nothing is said.

Gradients of the first loss are those of the untrained network: no step that is too long has made them large. Such a
finding has step 0, so that what steps do cannot be its cause.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.profiles import DepthProfile, firsts, gradient_profiles, table
from separatrix.analysis.trends import Track, learning_rate, loss_tracks, number, start, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_RATIO = 1e3
_TREND = -0.8
_TREND_OF_THREE = -0.5
_FEWEST_LAYERS = 3
_SENSITIVITY = 300.0
_GROWTH = 100.0
_DEVIATIONS = 6.0
_GAUSSIAN_MAD = 1.4826
_HISTORY = 5
_LOSSES_BEFORE = 20
_STEPS_AFTER = 5
_HARM = 2.0
_BEFORE_ANY_STEP = 0


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding: of what is seen, the earliest."""
    norms = gradient_norms(run)
    profiles = gradient_profiles(run, _FEWEST_LAYERS)
    candidates = (_from_start(run), _over_time(run, norms), _through_layers(run, profiles))
    found = sorted((f for f in candidates if f is not None), key=lambda finding: finding.step or 0)[:1]
    if not found and not profiles and max(map(len, norms), default=0) <= _HISTORY:
        return NotAssessed(rule.code, ("gradient_norm or gradient_rms",))
    return found


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
            growth = float(track.values[index]) / max(usual, np.finfo(np.float64).tiny)
            if not any(_harmed(loss, step) and growth >= _GROWTH * _loss_growth(loss, step) for loss in losses):
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


def _from_start(run: Run) -> Finding | None:
    losses, opposed = loss_tracks(run)
    gradients, weights = table(run, "gradient_rms"), table(run, "weight_rms")
    if not losses or opposed or not len(gradients.steps) or losses[0].values.min() < 0:
        return None
    step = int(gradients.steps[0])
    height = max(losses[0].at(step) or 0.0, float(start(losses[0]).mean()))
    if height <= 0.0 or step > losses[0].steps[0]:
        return None
    sizes = {str(p["name"]): float(p.get("numel", 1)) for p in run.parameters}
    products: dict[str, float] = {}
    for label, level in zip(gradients.labels, gradients.values[0], strict=True):
        _, size = weights.column(label)
        if size.size and np.isfinite(level) and label in sizes:
            products[label] = float(level) * float(size[0]) * sizes[label]
    sensitivity = float(np.sqrt(sum(product**2 for product in products.values()))) / height
    if sensitivity < _SENSITIVITY:
        return None
    main = max(products, key=lambda label: products[label])
    ended, highest = tracks(run, "loss")[0].values[-1], float(losses[0].values.max())
    harmless = highest <= _HARM * height and ended <= height / _HARM
    return Finding(
        code=rule.code,
        severity="error" if not np.isfinite(ended) or ended > height else "info" if harmless else "warning",
        confidence=0.8,
        step=_BEFORE_ANY_STEP,
        summary=(
            f"Gradients are too large from the start: to first order, weights changed by 1 % change the loss of"
            f" {number(height)} by {number(sensitivity)} %, most of it through {main}."
        ),
        remedy=(
            "Shrink the initial weights (recurrent and residual branches first) or add normalisation layers, and clip"
            f" the gradient norm (torch.nn.utils.clip_grad_norm_); in {main} signals grow most."
        ),
        evidence={
            "series": ["gradient_rms", "weight_rms", "loss"],
            "labels": [main],
            "sensitivity": sensitivity,
            "loss": height,
            "how": "from the start",
        },
        source=rule.source,
    )


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


def _loss_growth(loss: Track, step: int) -> float:
    """The loss at a step over the median of the twenty before it; at least 1, and 1 where there is no natural zero."""
    before, now = loss.before(step).values[-_LOSSES_BEFORE:], loss.at(step)
    if not before.size or now is None or loss.values.min() < 0:
        return 1.0
    return max(1.0, now / max(float(np.median(before)), np.finfo(np.float64).tiny))


def _healed(loss: Track, step: int) -> bool:
    before, after = loss.values[loss.steps <= step], loss.values[loss.steps > step]
    return bool(after.size and float(after[-1]) <= float(before.max()))


def _through_layers(run: Run, profiles: Sequence[DepthProfile]) -> Finding | None:
    found = [p for p in profiles if _explodes(p)]
    if not found:
        return None
    worst = max(found, key=lambda p: p.ratio)
    step = int(table(run, "gradient_rms").steps[0])
    untrained = step <= min((int(loss.steps[0]) for loss in loss_tracks(run)[0] if len(loss)), default=0)
    at_first = untrained and any(map(_explodes, gradient_profiles(run, _FEWEST_LAYERS, firsts)))
    per_layer = worst.ratio ** (1 / max(len(worst.labels) * 2 // 3, 1))
    return Finding(
        code=rule.code,
        severity="warning",
        confidence=0.85 if len(worst.labels) > _FEWEST_LAYERS else 0.7,
        step=_BEFORE_ANY_STEP if at_first else step,
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
    caused_by=(
        "diverging",
        "missing-zero-grad",
        "unnormalized-inputs",
        "lr-too-high",
        "bad-init",
        "loss-mismatch",
        "attention-logit-growth",
    ),
)
