"""NaN or infinity, with the place where it arose first.

There is no threshold: one non-finite value in the loss, a gradient, a parameter, an activation or the input is a fact.
What differs is the damage. From a non-finite parameter or a loss that stays non-finite nothing recovers: an error.
Where later losses are finite again, somebody (a GradScaler, a guard in the loop) threw the step away: a warning. A
non-finite gradient on a step that a GradScaler skipped is how dynamic loss scaling works and no finding at all, unless
the loss itself was hit.

Within one step values are computed in the order input, modules from first to last, loss, gradients, parameters; of
several places seen in the same step the first in that order is where it arose.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from separatrix.analysis.profiles import kinds, table
from separatrix.analysis.trends import learning_rate, listed, number, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_ORDER = ("input", "module", "loss", "gradient", "parameter")
_SERIES = {"module": "activation_nonfinite_share", "gradient": "nonfinite_share"}


@dataclasses.dataclass(frozen=True)
class _Sighting:
    step: int
    where: str
    name: str
    series: str


def assess(run: Run) -> list[Finding] | NotAssessed:
    """The first non-finite value, and whether the training recovered."""
    seen = _sightings(run)
    losses = tracks(run, "loss")
    recovered = all(len(track) and np.isfinite(track.values[-1]) for track in losses)
    lasting = not recovered or any(sighting.where == "parameter" for sighting in seen)
    if not lasting:
        skipped = _skipped_steps(run)
        seen = [s for s in seen if not (s.where == "gradient" and s.step in skipped)]
    if not seen:
        return []
    modules = list(kinds(run))
    depth = {name: index for index, name in enumerate(modules)}
    seen.sort(key=lambda s: (s.step, _ORDER.index(s.where), depth.get(s.name, len(depth)), s.name))
    first = seen[0]
    hit = sum(int((~np.isfinite(track.values)).sum()) for track in losses)
    evidence = {
        "series": sorted({"loss", *(s.series for s in seen if s.series)}),
        "labels": [first.name] if first.name else [],
        "where": first.where,
        "nonfinite_losses": hit,
        "recovered": not lasting,
        "also": [f"{s.where} {s.name}".strip() for s in seen[1:] if s.step == first.step][:10],
    }
    place = f"{first.where} {first.name}".strip()
    end = "the training did not recover" if lasting else "later losses are finite again"
    return [
        Finding(
            code=rule.code,
            severity="error" if lasting else "warning",
            confidence=1.0 if first.where != "loss" or hit else 0.9,
            step=first.step,
            summary=f"NaN or infinity arose first in the {place} at step {first.step}; {end}.",
            remedy=_remedy(run, first),
            evidence=evidence,
            source=rule.source,
        )
    ]


def _sightings(run: Run) -> list[_Sighting]:
    seen = []
    for event in run.events:
        if event.kind != "nonfinite":
            continue
        where = str(event.data.get("where", "loss"))
        step = event.data.get("step", event.step)
        if where in _ORDER:
            seen.append(_Sighting(int(step or 0), where, str(event.data.get("name") or ""), _SERIES.get(where, "")))
    for track in tracks(run, "loss"):
        bad = np.flatnonzero(~np.isfinite(track.values))
        if bad.size:
            seen.append(_Sighting(int(track.steps[bad[0]]), "loss", track.label, "loss"))
    for where, name in _SERIES.items():
        shares = table(run, name)
        hits = np.nan_to_num(shares.values) > 0
        for column in np.flatnonzero(hits.any(axis=0)):
            step = int(shares.steps[np.argmax(hits[:, column])])
            seen.append(_Sighting(step, where, shares.labels[column], name))
    return [s for s in seen if not s.series or s.series in run]


def _skipped_steps(run: Run) -> set[int]:
    """Steps at, or right before, which the count of steps that a GradScaler skipped went up."""
    skipped = {event.step for event in run.events if event.kind == "skipped-step" and event.step is not None}
    for track in tracks(run, "skipped_steps"):
        rises = track.steps[np.diff(track.values, prepend=0.0) > 0]
        skipped.update(int(step) + offset for step in rises for offset in (-1, 0, 1))
    return skipped


def _remedy(run: Run, first: _Sighting) -> str:
    if first.where == "input":
        return f"Check the data of step {first.step} for NaN or infinity before it reaches the model (torch.isfinite)."
    if first.where == "module":
        layer = first.name or "the model"
        return (
            f"Look at what {layer} computes at step {first.step}: logarithms, divisions, roots and exponentials need"
            " bounds on their input (clamp, eps, log_softmax)."
        )
    before = [t.finite().before(first.step).values for t in tracks(run, "loss")]
    heights = [number(float(values[-1])) for values in before if values.size]
    rate = learning_rate(run, first.step)
    context = f" (loss before it: {listed(heights)})" if heights else ""
    if rate:
        context += f"; the learning rate was {number(rate)}, try {number(rate / 10)}, or clip the gradient norm"
    if first.where == "loss":
        return f"Check the loss function at step {first.step} for log(0), 0/0 or overflow{context}."
    what = f"the {first.where} {first.name}".strip()
    return (
        f"Find what made {what} non-finite at step {first.step} with torch.autograd.set_detect_anomaly(True){context}."
    )


rule = FindingRule(
    code="nonfinite",
    title="NaN or infinity",
    needs=("loss",),
    source="IEEE 754 arithmetic: NaN and infinity propagate through every later operation",
    assess=assess,
    caused_by=(
        "diverging",
        "exploding-gradient",
        "unnormalized-inputs",
        "missing-zero-grad",
        "lr-too-high",
        "bad-init",
        "scheduler-misuse",
        "epsilon-underflow",
        "loss-mismatch",
    ),
)
