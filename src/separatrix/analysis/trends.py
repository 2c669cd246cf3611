"""Scalars over steps: reading them apart by optimizer, robust levels, values at a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray

from separatrix.runs import Run

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_START_POINTS = 10
_END_POINTS = 50
_RECENT = 20
_BLOWN = 4.0
_GAP = 10.0
_GAUSSIAN_MAD = 1.4826


@dataclasses.dataclass(frozen=True)
class Track:
    """One scalar over steps; `label` tells optimizers (or groups) apart and is empty where there is one.

    `steps` and `values` have the same length; values may be non-finite.
    """

    label: str
    steps: Integers
    values: Floats

    def __len__(self) -> int:
        return len(self.steps)

    def finite(self) -> Track:
        """The points whose value is finite."""
        keep = np.isfinite(self.values)
        return Track(self.label, self.steps[keep], self.values[keep])

    def before(self, step: int) -> Track:
        """The points before a step."""
        keep = self.steps < step
        return Track(self.label, self.steps[keep], self.values[keep])

    def at(self, step: int) -> float | None:
        """The last value at or before a step; None before the first."""
        index = int(np.searchsorted(self.steps, step, side="right")) - 1
        return float(self.values[index]) if index >= 0 else None


def tracks(run: Run, name: str) -> tuple[Track, ...]:
    """The series apart by optimizer or group, each at the steps where it has a value; empty if the run lacks it."""
    if name not in run:
        return ()
    data = run.series(name)
    values = np.asarray(data.values, dtype=np.float64).reshape(len(data.steps), -1)
    labels = pandas.MultiIndex.from_product(list(data.coords.values())) if data.coords else [()]
    measured = data.measured.reshape(values.shape)
    found = []
    for column, label in enumerate(labels):
        keep = measured[:, column]
        text = "/".join(str(part) for part in (label if isinstance(label, tuple) else (label,)))
        found.append(Track(text, np.asarray(data.steps[keep], dtype=np.int64), values[keep, column]))
    return tuple(found)


def loss_tracks(run: Run) -> tuple[tuple[Track, ...], bool]:
    """The finite part of each loss, and whether they oppose one another.

    Optimizers that share one loss record it once each: it counts once. Losses that differ belong to a game (as in a
    GAN), in which one rises because another falls, so that a rise alone says little. A script that trains for one thing
    and then for another (pretraining, a new head) has one loss for each phase.
    """
    found: list[Track] = []
    for track in (track.finite() for track in tracks(run, "loss")):
        known = any(len(track) == len(other) and np.allclose(track.values, other.values) for other in found)
        if len(track) and not known:
            found.append(track)
    begun = [event.step for event in run.events if event.kind == "clock" and event.step is not None]
    return tuple(phase for track in found for phase in _phases(track, begun)), len(found) > 1


def _phases(track: Track, begun: Sequence[int]) -> list[Track]:
    """The track cut where another optimizer took over (after the steps `begun`) and another loss begins.

    No step lies between the last loss of the one and the first of the other, so the weights are the same: a first loss
    beyond the range of the last twenty, widened by itself to both sides, measures something else.
    """
    cuts = [0]
    for step in sorted(begun):
        at = int(np.searchsorted(track.steps, step, side="right"))
        recent = track.values[max(cuts[-1], at - _RECENT) : at]
        if at < len(track) and len(recent) > 1:
            low, high = float(recent.min()), float(recent.max())
            if not low - (high - low) <= track.values[at] <= high + (high - low):
                cuts.append(at)
    ends = [*cuts[1:], len(track)]
    return [Track(track.label, track.steps[a:b], track.values[a:b]) for a, b in zip(cuts, ends, strict=True)]


def start(loss: Track) -> Floats:
    """The values of a loss that tell where it began: at most ten, and at most a fifth of all.

    What comes after a gap of ten times the usual distance is no beginning: a recording that was short of time left the
    steps in between out. A training that blows up at once is cut off where it does: before the first value that exceeds
    the first one fourfold, and by more than six times the usual factor between consecutive losses, so that noisy
    batches are not taken for it.
    """
    values = loss.values
    window = values[: max(1, min(_START_POINTS, len(values) // 5))]
    distances = np.diff(loss.steps)
    gaps = np.flatnonzero(distances > _GAP * np.median(distances)) if distances.size else distances
    window = window[: gaps[0] + 1] if gaps.size else window
    if len(values) < 2 or values.min() <= 0:
        return window
    usual = _GAUSSIAN_MAD * float(np.median(np.abs(np.diff(np.log(values)))))
    blown = np.flatnonzero(window > window[0] * max(_BLOWN, float(np.exp(min(6 * usual, 700.0)))))
    return window[: blown[0]] if blown.size else window


def end_points(count: int) -> int:
    """How many values the end of a series of `count` values holds."""
    return max(1, min(_END_POINTS, count // 5))


def smoothed(values: Floats, width: int, statistic: str = "median") -> Floats:
    """Statistic ("median", "mean", "max") of the last `width` values, fewer at the beginning; shape kept."""
    rolling: Any = pandas.Series(values).rolling(max(1, width), min_periods=1)
    return np.asarray(getattr(rolling, statistic)(), dtype=np.float64)


def learning_rate(run: Run, step: int | None) -> float | None:
    """The largest learning rate of all groups in force at a step (at the start for None); None if not recorded."""
    found = tracks(run, "learning_rate")
    held = [track.at(step) if step is not None else None for track in found]
    first = [float(track.values[0]) for track in found if len(track)]
    rates = [rate for rate in held if rate is not None and np.isfinite(rate)] or [r for r in first if np.isfinite(r)]
    return max(rates) if rates else None


def median_of(run: Run, name: str) -> float | None:
    """Median of the finite values of a scalar series over all steps; None if there are none."""
    values = [track.finite().values for track in tracks(run, name)]
    joined = np.concatenate(values) if values else np.empty(0)
    return float(np.median(joined)) if joined.size else None


def number(value: float) -> str:
    """A number as people write it: three significant digits."""
    return f"{value:.3g}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names joined for a sentence, the rest counted."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
