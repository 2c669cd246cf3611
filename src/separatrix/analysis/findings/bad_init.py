"""The weights a training starts from: out of scale, or so alike that units cannot become different.

Looked at in the first measurements (the first three steps), in this order:

- *symmetric*: at least 90 % of the rows of a hidden weight equal another row at every measurement, of two or more, or a
  constant other than zero filled half of the weights or more at the first. Equal units get equal gradients and stay
  equal: the layer has the capacity of one unit. A weight of zeros that gets a gradient, as in the last layer of a
  residual branch, soon differs and does not count; two layers of zeros in a row get none, ever.
- *confident*: the outputs' entropy is at most half of that of the uniform distribution, with no more right answers
  than twice the largest class has. Default and He initialisations begin above 80 %; logits need a standard deviation
  of about three to get to half. The first part of the training then unlearns this.
- *fading*, *growing*: over at least four layers with weights, the outputs' RMS of the last third lies a thousandfold
  below or above that of the first third and changes with depth all along (Spearman 0.8). Initialisations made for the
  activation keep it within a factor of ten.
- *large*: in half of the layers' weights, RMS times the root of the fan-in exceeds five. Glorot's has 1, He's 1.4,
  torch's default 0.6, and trained networks stay below three. A layer does not count whose outputs are less than a fifth
  of what such weights make of a signal of RMS one: it divides by the root of its width as it goes, as in the
  tangent-kernel parametrization, or its inputs are sparse. Where units saturate (tanh, sigmoid), saturated-units says
  so.
- *small*: in half of the layers' weights, of two or more, the same is below 0.1 and not zero, and it shows: after a
  fifth of the run the loss is within 5 % of its start, or more than half of it is left at the end. Outputs then hardly
  depend on inputs until weights have grown, by gradients that are as small as the weights. Layers that multiply as they
  go (sine networks) learn at once and do not count.

The weights are those from before the first step, so this precedes whatever steps do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from separatrix.analysis.profiles import DepthProfile, depth_profile, kinds, module_of, table
from separatrix.analysis.progress import matrices, progress
from separatrix.analysis.trends import listed, number, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_FIRST_STEPS = 3
_EQUAL = 0.9
_FEWEST_ROWS = 4
_HALF = 0.5
_UNSURE = 0.5
_CHANCE = 2.0
_ONE_EACH = 0.01
_RATIO = 1e3
_TREND = 0.8
_FEWEST_LAYERS = 4
_LARGE = 5.0
_SATURATED = 0.5
_SMALL_SIGNAL = 0.2
_SMALL = 0.1
_FEWEST_SMALL = 2
_AROUND = 2
_STOOD = 0.95


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for the first kind that applies."""
    weights = table(run, "weight_rms")
    if not len(weights.steps) or weights.steps[0] > _FIRST_STEPS or not matrices(run):
        return NotAssessed(rule.code, ("weight_rms of weights at the first steps",))
    for judge in (_symmetric, _confident, _through_layers, _large, _small):
        found = judge(run)
        if found is not None:
            return [found]
    return []


def _first(run: Run, name: str, label: str) -> float:
    steps, values = table(run, name).column(label)
    return float(values[0]) if len(steps) and steps[0] <= _FIRST_STEPS else math.nan


def _symmetric(run: Run) -> Finding | None:
    shares = table(run, "repeated_row_share")
    shapes = {str(p["name"]): p["shape"] for p in run.parameters}
    rows = [label for label in matrices(run) if label in shares.labels and shapes[label][0] >= _FEWEST_ROWS]
    if not rows:
        return None
    always = [
        label
        for label in rows
        if len(shares.column(label)[1]) > 1 and (shares.column(label)[1] >= _EQUAL).all() and _learns(run, label)
    ]
    constant = [
        label
        for label in rows
        if _first(run, "repeated_row_share", label) == 1.0 and _first(run, "weight_rms", label) > 0
    ]
    chosen = always if always else constant if len(constant) >= max(2.0, _HALF * len(rows)) else []
    if not chosen:
        return None
    size = max(_first(run, "weight_rms", label) for label in chosen)
    zeros = " (all zero)" if size == 0 else ""
    return _finding(
        run,
        "symmetric",
        0.95 if always else 0.8,
        f"The units of {listed(chosen)} started equal{zeros}" + (" and stayed equal." if always else "."),
        "Draw these weights at random (He for ReLU, Glorot for tanh; torch's default is fine); biases may be zero:"
        " equal units get equal gradients, so a layer of them works like one unit.",
        ["repeated_row_share", "weight_rms"],
        chosen,
        {"weight_rms": size},
    )


def _learns(run: Run, label: str) -> bool:
    """Whether the parameter is meant to move: it has gradients, or is zero and so is what follows from it."""
    gradients = table(run, "gradient_rms").column(label)[1]
    return bool((gradients > 0).any()) or (len(gradients) > 0 and _first(run, "weight_rms", label) == 0)


def _confident(run: Run) -> Finding | None:
    entropies = [t.finite() for t in tracks(run, "output_entropy")]
    accuracies = [t.finite() for t in tracks(run, "accuracy")]
    labels = table(run, "label_share")
    if len(entropies) != 1 or len(accuracies) != 1 or len(labels.labels) < 2 or not len(entropies[0]):
        return None
    entropy, first = float(entropies[0].values[0]), int(entropies[0].steps[0])
    accuracy = accuracies[0].at(first)
    uniform = math.log(len(labels.labels))
    shares = np.nanmean(labels.values, axis=0)
    if abs(float(shares.sum()) - 1.0) > _ONE_EACH:
        # Several labels an example: as many yes-or-no answers, whose entropies are no class distribution's.
        return None
    chance = float(shares.max())
    sure = 0.0 <= entropy <= _UNSURE * uniform  # below zero what the loss is given are no probabilities
    if first > _FIRST_STEPS or accuracy is None or not sure or accuracy > min(_CHANCE * chance, 0.9):
        return None
    loss = [t.finite() for t in tracks(run, "loss")]
    height = f", the loss {number(float(loss[0].values[0]))}" if loss and len(loss[0]) else ""
    return _finding(
        run,
        "confident",
        0.85,
        f"The untrained network is certain and wrong: the entropy of its outputs is {number(entropy)} of"
        f" {number(uniform)} nats, {accuracy:.0%} are right{height}.",
        f"Begin with outputs near zero, where the loss is ln {len(labels.labels)} = {number(uniform)}: shrink the last"
        " layer's initial weights (or set them to zero), and draw the others with He's or Glorot's variance.",
        ["output_entropy", "accuracy", *(["loss"] if loss else [])],
        [],
        {"output_entropy": entropy, "uniform_entropy": uniform, "accuracy": accuracy},
    )


def _through_layers(run: Run) -> Finding | None:
    owners = {module_of(p) for p in run.parameters if str(p["name"]) in set(matrices(run))}
    levels = {label: _first(run, "activation_rms", label) for label in kinds(run) if label in owners}
    levels = {label: level for label, level in levels.items() if math.isfinite(level) and level > 0}
    if len(levels) < _FEWEST_LAYERS:
        return None
    profile = depth_profile("activation_rms", list(levels), list(levels.values()))
    fades = profile.ratio >= _RATIO and profile.trend <= -_TREND
    grows = profile.ratio <= 1 / _RATIO and profile.trend >= _TREND
    if not (fades or grows):
        return None
    how = "fading" if fades else "growing"
    factor = profile.ratio ** (-1 / max(len(levels) * 2 // 3, 1))
    return _finding(
        run,
        how,
        0.9,
        f"The signal is {how} through the layers at the start: RMS {number(profile.levels[0])} after"
        f" {profile.labels[0]}, {number(profile.levels[-1])} after {profile.labels[-1]}.",
        f"Each layer multiplies the signal by about {number(factor)}: divide the initial weights by it (He"
        " initialisation for ReLU, Glorot for tanh), or add normalisation layers or residual connections.",
        ["activation_rms"],
        list(profile.labels),
        _facts(profile),
    )


def _facts(profile: DepthProfile) -> dict[str, object]:
    return {"levels": list(profile.levels), "ratio": profile.ratio, "trend": profile.trend}


def _large(run: Run) -> Finding | None:
    saturated = table(run, "saturation_share")
    if saturated.values.size and float(np.nanmax(np.nan_to_num(saturated.values[0]))) >= _SATURATED:
        return None
    gains, owner = _gains(run), {str(p["name"]): module_of(p) for p in run.parameters}
    large = [label for label, gain in gains.items() if gain > _LARGE and not _is_undone(run, owner[label], gain)]
    if not large or len(large) < _HALF * len(gains):
        return None
    worst = max(large, key=lambda label: gains[label])
    return _finding(
        run,
        "large",
        0.8,
        f"The initial weights are {number(gains[worst])} times what keeps a signal's size in {worst}"
        + (f", and too large in {len(large)} of {len(gains)} weights." if len(large) > 1 else "."),
        f"Divide them by {number(gains[worst] / math.sqrt(2))} (He's deviation, the root of 2 / fan in, for ReLU) or"
        " use torch's default initialisation.",
        ["weight_rms"],
        large,
        {"gain": {label: gains[label] for label in large}},
    )


def _small(run: Run) -> Finding | None:
    gains, loss = _gains(run), progress(run)
    small = [label for label, gain in gains.items() if 0.0 < gain < _SMALL]
    if len(small) < max(_FEWEST_SMALL, _HALF * len(gains)) or loss is None:
        return None
    fifth = len(loss.track) // 5
    level = float(np.median(loss.track.values[fifth - _AROUND : fifth + _AROUND + 1]))
    if level <= _STOOD * loss.start and not loss.left > _HALF:
        return None
    worst = min(small, key=lambda label: gains[label])
    return _finding(
        run,
        "small",
        0.8,
        f"The initial weights are {number(gains[worst])} of what keeps a signal's size in {worst}, and too small in"
        f" {len(small)} of {len(gains)} weights; the loss is at {level / loss.start:.0%} of its start after a fifth of"
        f" the run, at {loss.left:.0%} in the end.",
        f"Multiply them by {number(math.sqrt(2) / gains[worst])} (He's deviation, the root of 2 / fan in, for ReLU) or"
        " use torch's default initialisation.",
        ["weight_rms", "loss"],
        small,
        {"gain": {label: gains[label] for label in small}, "loss_left": loss.left},
    )


def _gains(run: Run) -> dict[str, float]:
    """By what a layer's first weights multiply the RMS of a signal: theirs times the root of the fan-in."""
    shapes = {str(p["name"]): p["shape"] for p in run.parameters}
    owner = {str(p["name"]): module_of(p) for p in run.parameters}
    layers = [label for label in matrices(run) if owner[label] in kinds(run)]
    gains = {label: _first(run, "weight_rms", label) * math.sqrt(math.prod(shapes[label][1:])) for label in layers}
    return {label: gain for label, gain in gains.items() if math.isfinite(gain)}


def _is_undone(run: Run, module: str, gain: float) -> bool:
    """Whether the layer's outputs are far smaller than its weights would make them of a signal of usual size."""
    return _first(run, "activation_rms", module) < gain * _SMALL_SIGNAL


def _finding(
    run: Run,
    how: str,
    sure: float,
    summary: str,
    remedy: str,
    series: list[str],
    labels: list[str],
    facts: dict[str, object],
) -> Finding:
    evidence = {"series": series, "labels": labels, "how": how, **facts}
    return Finding(
        code=rule.code,
        severity="warning",
        confidence=sure,
        step=0,
        summary=summary,
        remedy=remedy,
        evidence=evidence,
        source=rule.source,
    )


rule = FindingRule(
    code="bad-init",
    title="Bad initialisation",
    needs=("weight_rms",),
    source="He et al. 2015, arXiv:1502.01852; Glorot & Bengio 2010 (AISTATS); Zhang et al. 2019, arXiv:1901.09321",
    assess=assess,
    caused_by=("unnormalized-inputs",),
)
