"""The loss function is given something else than it expects.

What each expects is a matter of its definition, so most of these ways are facts and need no threshold but one for
rounding. "Throughout" is at 95 % of the samples or more.

- *distributions*: `cross_entropy` is given rows that are distributions (not negative, sum 1) throughout: softmax was
  applied before, and is applied again. The loss of c classes cannot fall below ln(1 + (c - 1) / e), and the gradient
  vanishes where the model is sure.
- *probabilities*: `binary_cross_entropy_with_logits` is given numbers between 0 and 1 throughout: sigmoid twice. No
  answer is below 1/2 or above 0.73, so that no loss falls below 0.31 per answer 1 and 0.69 per answer 0. Small logits
  can lie there too at the start: the loss must stay above that bound to the end, and the model must end in a sigmoid
  or the samples reach into the second half of the run. One logit for all examples lies there too, where half to three
  quarters of the answers are 1: unless the model ends in a sigmoid, its answers must differ.
- *sigmoid twice*: `binary_cross_entropy` is given numbers between sigmoid(0) and sigmoid(1) throughout, although each
  of the two targets makes up a tenth or more.
- *no log-probabilities*: the log of the sum of exponentials of what `nll_loss` or `kl_div` is given is 0 for
  log-probabilities in any precision to within 0.05; logits and probabilities are off by more than 0.5 (log of the
  number of classes, at the start). `nll_loss` of logits has no lower bound: the loss runs to minus infinity. An error.
- *shapes*: outputs and targets of an elementwise loss are broadcast to more entries than either has: (n, 1) against
  (n,) compares every output with every target, so that the best output is the mean target for all. Where the loss is
  written by hand, of a difference, the shapes are read from its graph. An error.
- *targets out of range*: binary cross-entropy wants targets between 0 and 1. With others the loss has no lower bound:
  an error.
- *outputs out of reach*: the model ends in a module whose range (sigmoid, softmax: 0 to 1; tanh: -1 to 1; ReLU: from 0)
  misses targets of a regression: some lie outside, and so does their mean, or a standard deviation beyond it.
- *class labels as numbers*: a squared or absolute error of one output against whole numbers 0, 1, ..., k - 1 with k
  between 3 and 100 that all occur: classes have no order. The targets might be counts or grades, hence low
  confidence, and only info from 20 values on.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from separatrix.analysis.profiles import kinds
from separatrix.analysis.trends import Track, number, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run, Severity

_THROUGHOUT = 0.95
_OFF = 0.5
_FEWEST_CLASSES, _MOST_CLASSES, _GRADES = 3, 100, 20
_TWICE = (0.5, 1.0 / (1.0 + math.exp(-1.0)))
_ROUNDING = 1e-3
_SLACK = 0.9
"""The share of ones in the sampled batches differs a little from that of all."""
_EITHER = 0.1
_NO_SPREAD = 0.02
"""As in collapsed-output."""
_ELEMENTWISE = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
_RANGES: dict[str, tuple[float, float]] = {
    "Sigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "ReLU": (0.0, math.inf),
}


@dataclasses.dataclass(frozen=True)
class _Case:
    way: str
    severity: Severity
    confidence: float
    said: str
    remedy: str
    series: tuple[str, ...]
    numbers: Mapping[str, Any]


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding: the gravest of the ways in which outputs, targets and loss function do not fit."""
    if not run.losses:
        return NotAssessed(rule.code, ("what the loss function is given (losses, distribution_share)",))
    cases = [case for look in _LOOKS for case in [look(run, run.losses)] if case is not None]
    if not cases:
        return []
    case = min(cases, key=lambda c: (("error", "warning", "info").index(c.severity), -c.confidence))
    series = [name for name in case.series if name in run]
    return [
        Finding(
            code=rule.code,
            severity=case.severity,
            confidence=case.confidence,
            step=0,
            summary=case.said,
            remedy=case.remedy,
            evidence={
                "series": series or (["loss"] if "loss" in run else []),
                "labels": [],
                "how": case.way,
                "ways": [c.way for c in cases],
                **case.numbers,
            },
            source=rule.source,
        )
    ]


def _samples(run: Run, name: str) -> Track | None:
    found = [track.finite() for track in tracks(run, name)]
    return found[0] if found and len(found[0]) else None


def _throughout(track: Track | None, holds: Callable[[np.ndarray], np.ndarray]) -> bool:
    return track is not None and float(np.mean(holds(track.values))) >= _THROUGHOUT


def _named(losses: Sequence[Mapping[str, Any]], *names: str) -> Mapping[str, Any] | None:
    return next((facts for facts in losses if facts["name"] in names), None)


def _first_is(losses: Sequence[Mapping[str, Any]], *names: str) -> bool:
    """Whether the samples, which are of the kind heard first, are of one of these."""
    return losses[0]["name"] in names


def _final_loss(run: Run) -> float | None:
    values = [track.finite().values for track in tracks(run, "loss")]
    return float(np.median(values[0][-50:])) if values and values[0].size else None


def _last_step(run: Run) -> int:
    return max((int(track.steps[-1]) for track in tracks(run, "loss") if len(track)), default=0)


def _distributions(run: Run, losses: Sequence[Mapping[str, Any]]) -> _Case | None:
    shares = _samples(run, "distribution_share")
    if not _first_is(losses, "cross_entropy") or not _throughout(shares, lambda v: v >= _THROUGHOUT):
        return None
    shape = losses[0]["outputs"]
    count = int(shape[1] if len(shape) > 1 else shape[0])
    if count < 2:
        return None
    floor, end = math.log(1.0 + (count - 1) / math.e), _final_loss(run)
    bound = f" it cannot fall below {number(floor)} for {count} classes" + (
        f" and ends at {number(end)}" if end else ""
    )
    return _Case(
        "softmax before cross_entropy",
        "warning",
        0.97,
        f"cross_entropy is given probabilities: softmax is applied twice, so that{bound}.",
        "Give cross_entropy the logits: remove the softmax at the end of the model, or take"
        f" nll_loss(log(probabilities)). The loss is then free to fall below {number(floor)}.",
        ("distribution_share", "loss"),
        {"classes": count, "loss_floor": floor, "final_loss": end},
    )


def _probabilities(run: Run, losses: Sequence[Mapping[str, Any]]) -> _Case | None:
    inside = _samples(run, "unit_interval_share")
    name = "binary_cross_entropy_with_logits"
    if not _first_is(losses, name) or not _throughout(inside, lambda v: v >= 1.0):
        return None
    end, lowest, ones = _final_loss(run), math.log1p(math.exp(-1.0)), _samples(run, "target_mean")
    share = float(np.mean(ones.values)) if ones is not None else 1.0
    floor = share * lowest + (1.0 - share) * math.log(2.0)
    assert inside is not None
    late = int(inside.steps[-1]) > _last_step(run) / 2
    spread = _samples(run, "prediction_spread")
    differ = spread is None or float(np.median(spread.values)) >= _NO_SPREAD
    ends_so = list(kinds(run).values())[-1:] == ["Sigmoid"]
    if not (ends_so or (late and differ)) or (end is not None and end < _SLACK * floor):
        return None
    return _Case(
        "sigmoid before binary_cross_entropy_with_logits",
        "warning",
        0.95,
        f"{name} is given numbers between 0 and 1 throughout: sigmoid is applied twice, so that no answer is below 1/2"
        + (f"; the loss ends at {number(end)}." if end is not None else "."),
        "Give it the logits: remove the sigmoid at the end of the model, or take binary_cross_entropy. Of a right"
        f" answer 1 the loss cannot fall below {number(lowest)} now, of an answer 0 not below {number(math.log(2))}.",
        ("unit_interval_share", "output_min", "output_max"),
        {"final_loss": end},
    )


def _sigmoid_twice(run: Run, losses: Sequence[Mapping[str, Any]]) -> _Case | None:
    low, high, mean = (_samples(run, name) for name in ("output_min", "output_max", "target_mean"))
    if not _first_is(losses, "binary_cross_entropy") or low is None or high is None or mean is None:
        return None
    ones = float(np.mean(mean.values))
    squeezed = _throughout(low, lambda v: v >= _TWICE[0] - _ROUNDING) and _throughout(
        high, lambda v: v <= _TWICE[1] + _ROUNDING
    )
    if not squeezed or not _EITHER <= ones <= 1.0 - _EITHER:
        return None
    return _Case(
        "sigmoid twice",
        "warning",
        0.9,
        "binary_cross_entropy is given numbers between"
        f" {number(float(low.values.min()))} and {number(float(high.values.max()))} only, the sigmoids of 0 to 1:"
        f" sigmoid is applied twice, while {ones:.0%} of the targets are 1.",
        "Apply sigmoid once: remove one of the two, or give the logits to binary_cross_entropy_with_logits.",
        ("output_min", "output_max"),
        {"lowest": float(low.values.min()), "highest": float(high.values.max()), "share_of_ones": ones},
    )


def _no_log_probabilities(run: Run, losses: Sequence[Mapping[str, Any]]) -> _Case | None:
    errors = _samples(run, "log_probability_error")
    if not _first_is(losses, "nll_loss", "kl_div") or not _throughout(errors, lambda v: v >= _OFF):
        return None
    assert errors is not None
    name = losses[0]["name"]
    low, end = _samples(run, "output_min"), _final_loss(run)
    high = _samples(run, "output_max")
    sure = _throughout(low, lambda v: v >= 0.0) and _throughout(high, lambda v: v <= 1.0 + _ROUNDING)
    what = "probabilities" if sure else "logits"
    off = float(np.median(errors.values))
    return _Case(
        f"{what} in {name}",
        "error",
        0.97,
        f"{name} is given {what}, not log-probabilities: the log of their summed exponentials is off by {number(off)}"
        + (f" and the loss, which has no meaning then, ends at {number(end)}." if end is not None else "."),
        f"Put log_softmax(dim=1) before {name}"
        + (", or give the logits to cross_entropy." if name == "nll_loss" else "."),
        ("log_probability_error", "loss"),
        {"log_probability_error": off, "final_loss": end},
    )


def _shapes(run: Run, losses: Sequence[Mapping[str, Any]]) -> _Case | None:
    facts = next((f for f in losses if f.get("broadcast")), None)
    if facts is None:
        return None
    outputs, targets = tuple(facts["outputs"]), tuple(facts["targets"])
    return _Case(
        "shapes",
        "error",
        0.97,
        f"{facts['name']} compares outputs of shape {outputs} with targets of shape {targets}: broadcast, every output"
        " is compared with every target, and the best answer is the same for all.",
        f"Bring both to one shape: targets.unsqueeze(1) or outputs.squeeze(1); now they are {outputs} and {targets}.",
        ("output_min", "output_max", "target_std"),
        {"outputs": list(outputs), "targets": list(targets)},
    )


def _targets_out_of_range(run: Run, losses: Sequence[Mapping[str, Any]]) -> _Case | None:
    facts = _named(losses, "binary_cross_entropy", "binary_cross_entropy_with_logits")
    if facts is None or not facts.get("target_range"):
        return None
    low, high = facts["target_range"]
    if low >= -_ROUNDING and high <= 1.0 + _ROUNDING:
        return None
    end = _final_loss(run)
    return _Case(
        "targets out of range",
        "error",
        0.95,
        f"{facts['name']} is given targets from {number(low)} to {number(high)}, and wants 0 to 1: the loss has no"
        " lower bound" + (f" and ends at {number(end)}." if end is not None else "."),
        f"Bring the targets to 0 to 1 (they reach {number(high)}), or take mse_loss for numbers, cross_entropy for"
        " classes.",
        ("target_mean", "target_std", "loss"),
        {"target_range": [low, high], "final_loss": end},
    )


def _outputs_out_of_reach(run: Run, losses: Sequence[Mapping[str, Any]]) -> _Case | None:
    last = list(kinds(run).values())[-1:]
    low, high = _RANGES.get(last[0], (-math.inf, math.inf)) if last else (-math.inf, math.inf)
    given, given_high = _samples(run, "output_min"), _samples(run, "output_max")
    mean, spread = _samples(run, "target_mean"), _samples(run, "target_std")
    if not _first_is(losses, *_ELEMENTWISE) or mean is None or spread is None or given is None or given_high is None:
        return None
    if not math.isfinite(low) or given.values.min() < low - _ROUNDING or given_high.values.max() > high + _ROUNDING:
        return None
    lowest, highest = losses[0].get("target_range") or (-math.inf, math.inf)
    if low - _ROUNDING <= lowest and highest <= high + _ROUNDING:
        return None
    centre, width = float(np.mean(mean.values)), float(np.median(spread.values))
    if low <= centre - width and centre + width <= high:
        return None
    missed = not low <= centre <= high
    return _Case(
        "outputs out of reach",
        "warning",
        0.9 if missed else 0.8,
        f"The model ends in {last[0]}, whose output lies between {number(low)} and {number(high)}, while the targets of"
        f" {losses[0]['name']} have mean {number(centre)} and standard deviation {number(width)}.",
        f"Remove {last[0]} from the end of the model, or bring the targets to its range: subtract {number(centre)} and"
        f" divide by {number(max(3 * width, 1e-12))}.",
        ("output_min", "output_max", "target_mean", "target_std"),
        {"range": [low, str(high) if math.isinf(high) else high], "target_mean": centre, "target_std": width},
    )


def _labels_as_numbers(run: Run, losses: Sequence[Mapping[str, Any]]) -> _Case | None:
    facts = _named(losses, *_ELEMENTWISE)
    values = facts.get("target_values") if facts is not None else None
    if facts is None or not values or math.prod(facts["outputs"]) != facts["outputs"][0] or facts["outputs"][0] < 2:
        return None
    count = len(values)
    if values != list(range(count)) or not _FEWEST_CLASSES <= count <= _MOST_CLASSES:
        return None
    return _Case(
        "class labels as numbers",
        "warning" if count <= _GRADES else "info",
        0.6,
        f"{facts['name']} fits one output to the whole numbers 0 to {count - 1}, which look like labels of {count}"
        " classes: it takes class 1 for nearer to class 2 than to class 5.",
        f"If they are classes, give the model {count} outputs and take cross_entropy; if they are counts or grades,"
        " this is fine.",
        ("target_mean", "target_std"),
        {"values": count},
    )


_LOOKS = (
    _shapes,
    _no_log_probabilities,
    _targets_out_of_range,
    _distributions,
    _probabilities,
    _sigmoid_twice,
    _outputs_out_of_reach,
    _labels_as_numbers,
)

rule = FindingRule(
    code="loss-mismatch",
    title="The loss function is given something else than it expects",
    needs=(),
    source="torch.nn.functional documentation: what each loss function expects; Bridle 1990 (softmax and its loss)",
    assess=assess,
)
