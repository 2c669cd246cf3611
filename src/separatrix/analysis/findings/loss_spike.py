"""The loss jumps far above its recent level.

The mean of three consecutive losses is compared with the window of losses before them (a fifth of the run, 50 to
500). It is a spike when it exceeds

- the window's median by ten robust standard deviations (1.4826 times the median absolute deviation): Gaussian noise
  does not get there, and
- the window's highest mean of three by half its height above the median (five times it where losses oppose one another,
  as in a GAN), and its highest single loss: heavy-tailed noise, as of batches of one example or of rare classes, gets
  to ten deviations but stays at its highest for three steps in a row very rarely, and
- half of what the training had gained since its start, or twice the median where it had gained nothing: smaller bumps
  cost little and are common at high, good learning rates, and
- for losses without negative values, 1.5 times the median.

The first twenty losses are no basis for comparison, so that an early catapult at a high learning rate is not called a
spike. A spike is over when the mean of three is back within a quarter of its height. One that stays below the start
of the run and lasts at most three steps (one bad batch) is worth knowing, and so is one of a single step below twenty
times the start: it left no trace in the weights, and the last, small batch of an epoch does so wherever one example is
badly wrong. Others cost training: a warning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from separatrix.analysis.trends import (
    Floats,
    Track,
    learning_rate,
    loss_tracks,
    median_of,
    number,
    smoothed,
    start,
)
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_WIDTH = 3
_DEVIATIONS = 10.0
_GAUSSIAN_MAD = 1.4826
_RECORD = 1.5
_RECORD_IN_GAME = 5.0
_UNDONE = 0.5
_RELATIVE = 1.5
_OVER = 0.25
_OF_ONE_EXAMPLE = 20.0
_FEWEST = 30
_HISTORY = 20
_WINDOW = 50
_LARGEST_WINDOW = 500


@dataclasses.dataclass(frozen=True)
class _Spike:
    label: str
    step: int
    peak: float
    base: float
    duration: int
    recovered: bool
    start: float


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for all spikes; its step and numbers are those of the highest."""
    losses, opposed = loss_tracks(run)
    if not losses or max(map(len, losses)) < _FEWEST:
        return NotAssessed(rule.code, (f"at least {_FEWEST} finite values of loss",))
    spikes = [spike for track in losses for spike in _spikes(track, _RECORD_IN_GAME if opposed else _RECORD)]
    if not spikes:
        return []
    worst = max(spikes, key=lambda s: (s.peak - s.base) / max(abs(s.base), np.finfo(np.float64).tiny))
    lasting = any(map(_costs, spikes))
    where = f"at step {worst.step}"
    end = f"high for {worst.duration} steps" if worst.recovered else "without coming back"
    more = f"; {len(spikes)} spikes in all" if len(spikes) > 1 else ""
    name = f"The loss of {worst.label}" if worst.label else "The loss"
    return [
        Finding(
            code=rule.code,
            severity="warning" if lasting else "info",
            confidence=0.9 if lasting else 0.75,
            step=worst.step,
            summary=f"{name} jumped from {number(worst.base)} to {number(worst.peak)} {where}, {end}{more}.",
            remedy=_remedy(run, worst, lasting),
            evidence={
                "series": ["loss"],
                "labels": [worst.label] if worst.label else [],
                "peak": worst.peak,
                "level_before": worst.base,
                "steps_high": worst.duration,
                "recovered": worst.recovered,
                "steps": [spike.step for spike in spikes][:50],
                "count": len(spikes),
            },
            source=rule.source,
        )
    ]


def _costs(spike: _Spike) -> bool:
    """Whether a spike did more than show that a batch holds a badly wrong example."""
    if spike.duration <= 1 and spike.recovered and spike.peak <= _OF_ONE_EXAMPLE * spike.start:
        return False
    return spike.duration > _WIDTH or spike.peak > spike.start


def _spikes(track: Track, record: float) -> list[_Spike]:
    values = track.values
    count = len(values)
    if count < _FEWEST:
        return []
    level = smoothed(values, _WIDTH, "mean")
    began = float(start(track).mean())
    height = _threshold(values, level, record, began)
    candidates = np.flatnonzero(level > height)
    spikes = []
    over_at = 0
    for index in map(int, candidates):
        if index < over_at:
            continue
        base = _base(values, index)
        over_at, peak = _end(level, values, index, base)
        first = max(0, index - _WIDTH + 1)
        onset = first + int(np.argmax(values[first : index + 1] > base + _OVER * (level[index] - base)))
        raised = int((values[onset:over_at] > base + _OVER * (peak - base)).sum())
        spikes.append(_Spike(track.label, int(track.steps[onset]), peak, base, raised, over_at < count, began))
    return spikes


def _window(count: int) -> int:
    return min(max(_WINDOW, count // 5), _LARGEST_WINDOW)


def _shifted(values: Floats) -> Floats:
    return np.concatenate([np.full(_WIDTH, np.nan), values[:-_WIDTH]])


def _threshold(values: Floats, level: Floats, record: float, began: float) -> Floats:
    """What the mean of three must exceed at each index; infinite where too little came before."""
    window = _window(len(values))
    median = _shifted(smoothed(values, window))
    deviation = _shifted(smoothed(np.abs(values - smoothed(values, window)), window)) * _GAUSSIAN_MAD
    highest = _shifted(smoothed(level, window, "max"))
    single = _shifted(smoothed(values, window, "max"))
    gained = np.where(began > median, median + _UNDONE * (began - median), median + np.abs(median))
    broken = np.maximum(median + record * (highest - median), single)
    threshold = np.maximum.reduce([median + _DEVIATIONS * deviation, broken, gained])
    if values.min() >= 0:
        threshold = np.maximum(threshold, _RELATIVE * median)
    threshold[: _HISTORY + _WIDTH] = np.inf
    return np.where(np.isnan(threshold), np.inf, threshold)


def _base(values: Floats, index: int) -> float:
    end = index - _WIDTH + 1
    return float(np.median(values[max(0, end - _window(len(values))) : end]))


def _end(level: Floats, values: Floats, index: int, base: float) -> tuple[int, float]:
    """Index at which the spike is over (the series' length if never) and its highest value."""
    peak_at = index
    for position in range(index, len(level)):
        if level[position] > level[peak_at]:
            peak_at = position
        if level[position] < base + _OVER * (level[peak_at] - base):
            return position, float(values[max(0, index - _WIDTH + 1) : position].max())
    return len(level), float(values[max(0, index - _WIDTH + 1) :].max())


def _remedy(run: Run, spike: _Spike, lasting: bool) -> str:
    rate, norm = learning_rate(run, spike.step), median_of(run, "gradient_norm")
    if not lasting:
        return f"Look at the batch of step {spike.step}: a few broken examples or labels make a single high loss."
    clip = f"Clip the gradient norm near its median {number(norm)}" if norm else "Clip the gradient norm"
    lower = (
        f", or lower the learning rate (now {number(rate)}, try {number(rate / 3)})"
        if rate
        else ", or lower the learning rate"
    )
    beta = median_of(run, "beta2")
    memory = f"; a smaller beta2 (now {number(beta)}, try 0.95) shortens spikes" if beta and beta > 0.95 else ""
    return f"{clip}{lower}{memory}. Look at the batch of step {spike.step} too."


rule = FindingRule(
    code="loss-spike",
    title="The loss spikes",
    needs=("loss",),
    source="Chowdhery et al. 2022, arXiv:2204.02311, section 5.1; Wortsman et al. 2023, arXiv:2309.14322",
    assess=assess,
    caused_by=(
        "diverging",
        "exploding-gradient",
        "missing-zero-grad",
        "unnormalized-inputs",
        "nonfinite",
        "lr-too-high",
        "bad-init",
        "scheduler-misuse",
        "batch-too-small",
        "unshuffled-data",
        "loss-mismatch",
    ),
)
