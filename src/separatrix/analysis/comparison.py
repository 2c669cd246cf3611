"""Where, and in which series, two runs part: exactly, and beyond their own noise.

Values are compared at the steps that both runs hold. *Exactly*: the first such step at which they are not the same
number (NaN equals NaN). *Beyond noise*: the first step from which the difference of the runs stays out of their noise.

The difference is averaged, by its median, over stretches of w consecutive steps, w a fiftieth of all and at least
five. The noise of such a median has two parts. One is that of single values: sqrt(pi / 2) sigma / sqrt(w), with sigma
from the second differences of each run nearby (1.4826 times the median of their size over sqrt(6)), which a smooth
trend does not enter. The other is that of slow wandering, from the second differences of the medians of successive
stretches. The larger counts. The runs part where the median exceeds the noise by a Gaussian quantile, chosen so that
noise alone does so anywhere in one of a thousand series, in w stretches in a row or up to the end. A difference below
what the stored precision resolves is none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from separatrix.runs import Run, SeriesData
from separatrix.runs.types import CHANGE_SERIES

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_OF_THE_MACHINE = frozenset({"step_seconds", "overhead", "memory_bytes"})
_FEWEST = 15
_STRETCHES = 50
_SHORTEST = 5
_FALSE_ALARMS = 1e-3
_GAUSSIAN_MAD = 1.4826
_NOISE_AROUND = 4
_RESOLUTION = 32 * float(np.finfo(np.float32).eps)
_CELLS = 2_000_000


@dataclasses.dataclass(frozen=True)
class Parting:
    """How far two runs agree in one series.

    `steps` steps are common to both. `equal_until` is the last one up to which all values are the same, `differs_at`
    the first with another value, `parts_at` the first from which the difference stays beyond the noise; each None where
    there is none. `first` and `second` are the values at `parts_at` (else at `differs_at`), of the label `label` if the
    series has labels; `excess` is the largest difference of medians over their noise, NaN where too few values tell.
    """

    series: str
    steps: int
    equal_until: int | None
    differs_at: int | None
    parts_at: int | None
    label: str
    first: float
    second: float
    excess: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: NaN becomes null, infinities the strings "inf" and "-inf"."""
        return {
            key: _plain(value) if isinstance(value, float) else value for key, value in dataclasses.asdict(self).items()
        }


def partings(first: Run, second: Run) -> tuple[Parting, ...]:
    """Where two runs part in each series that both hold at common steps, the earliest parting first.

    Ranked by the step of parting beyond noise, then by the first step that differs at all, then by excess; series that
    never part come last. What is the machine's (`step_seconds`, `overhead`, `memory_bytes`) is left out.
    Cost: a few sorts of each series.
    """
    shared = [name for name in first.names() if name in second and name not in _OF_THE_MACHINE]
    found = (parting(first.series(name), second.series(name)) for name in shared)
    return tuple(sorted((each for each in found if each is not None), key=_rank))


def compared(runs: Sequence[Run]) -> dict[str, Any]:
    """Runs side by side as plain data for JSON: `{"runs", "series", "partings"}`.

    `series` gives the last and the best value of each scalar that all runs hold: highest, lowest, and the steps of
    both; `partings` where each further run parts from the first, series by series. NaN becomes null, infinities the
    strings "inf" and "-inf".
    """
    shared = [n for n in runs[0].names() if all(n in run and not run.series(n).coords for run in runs)]
    return {
        "runs": [str(run.path) for run in runs],
        "series": {name: [_summary(run.series(name)) for run in runs] for name in shared},
        "partings": [
            {
                "runs": [str(runs[0].path), str(other.path)],
                "series": [found.to_dict() for found in partings(runs[0], other)],
            }
            for other in runs[1:]
        ],
    }


def _summary(data: SeriesData) -> dict[str, Any]:
    values = np.asarray(data.values, dtype=np.float64)
    finite = np.flatnonzero(np.isfinite(values))
    found: dict[str, Any] = {"steps": len(values), "last": _plain(float(values[-1]))}
    for key, pick in (("lowest", np.argmin), ("highest", np.argmax)):
        at = int(finite[pick(values[finite])]) if finite.size else None
        found[key] = None if at is None else float(values[at])
        found[f"{key}_step"] = None if at is None else int(data.steps[at])
    return found


def _rank(of: Parting) -> tuple[float, float, float, str]:
    parts, differs = (math.inf if step is None else float(step) for step in (of.parts_at, of.differs_at))
    return parts, differs, 0.0 if math.isnan(of.excess) else -of.excess, of.series


def parting(first: SeriesData, second: SeriesData) -> Parting | None:
    """Where one series of two runs parts; None if they share no step, or labels of other dimensions or names.

    Series recorded only when they change are compared at all steps at which one of them did, each value held until the
    next; they have no noise, so that they part where they first differ.
    """
    labels = _common_labels(first, second)
    held = first.name in CHANGE_SERIES
    steps, a, b = (_held if held else _at_common_steps)(first, second, labels)
    if not steps.size or not labels:
        return None
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    differing = np.flatnonzero(~same.all(axis=1))
    changed = int(differing[0]) if differing.size else None
    at, column, excess = (None, 0, 0.0) if changed is None else _beyond_noise(a, b)
    if held and changed is not None:
        at, excess = changed, math.inf
    if at is not None and changed is not None:
        at = max(at, changed)
    shown = at if at is not None else changed
    if changed is not None and (at is None or held):
        column = int(np.flatnonzero(~same[changed])[0])
    return Parting(
        series=first.name,
        steps=len(steps),
        equal_until=int(steps[-1]) if changed is None else int(steps[changed - 1]) if changed else None,
        differs_at=None if changed is None else int(steps[changed]),
        parts_at=None if at is None else int(steps[at]),
        label="" if shown is None else labels[column],
        first=math.nan if shown is None else float(a[shown, column]),
        second=math.nan if shown is None else float(b[shown, column]),
        excess=excess,
    )


def _at_common_steps(first: SeriesData, second: SeriesData, labels: Sequence[str]) -> tuple[Integers, Floats, Floats]:
    steps, here, there = np.intersect1d(first.steps, second.steps, return_indices=True)
    return steps, _columns(first, here, labels), _columns(second, there, labels)


def _held(first: SeriesData, second: SeriesData, labels: Sequence[str]) -> tuple[Integers, Floats, Floats]:
    """Values in force at every step at which one of the two changed, from the later of the first steps on."""
    steps = np.union1d(first.steps, second.steps)
    if first.steps.size and second.steps.size:
        steps = steps[steps >= max(first.steps[0], second.steps[0])]
    rows = (np.searchsorted(data.steps, steps, side="right") - 1 for data in (first, second))
    a, b = (_columns(data, row, labels) for data, row in zip((first, second), rows, strict=True))
    return steps, a, b


def _common_labels(first: SeriesData, second: SeriesData) -> tuple[str, ...]:
    """Labels that both hold, those of several dimensions joined; one empty label for scalars."""
    if tuple(first.coords) != tuple(second.coords):
        return ()
    known = set(_labels(second))
    return tuple(label for label in _labels(first) if label in known)


def _labels(data: SeriesData) -> list[str]:
    joined = [""]
    for names in data.coords.values():
        joined = [f"{before} · {name}" if before else name for before in joined for name in names]
    return joined


def _columns(data: SeriesData, rows: Integers, labels: Sequence[str]) -> Floats:
    where = {label: index for index, label in enumerate(_labels(data))}
    table = np.asarray(data.values, dtype=np.float64).reshape(len(data.steps), -1)
    return table[np.ix_(rows, np.array([where[label] for label in labels], dtype=np.int64))]


def _beyond_noise(a: Floats, b: Floats) -> tuple[int | None, int, float]:
    """Row and column of the first lasting difference beyond noise, and the largest excess; (steps, labels) given.

    Where one run stays finite and the other does not, they part at the first such row.
    """
    steps, labels = a.shape
    if steps < _FEWEST:
        return None, 0, math.nan
    width = max(_SHORTEST, steps // _STRETCHES)
    quantile = _quantile(_FALSE_ALARMS / (steps * labels))
    found: list[tuple[int, int]] = []
    excess = 0.0
    chunk = max(1, _CELLS // (steps * _NOISE_AROUND * width))
    for start in range(0, labels, chunk):
        x, y = a[:, start : start + chunk], b[:, start : start + chunk]
        ratio = _excess(x, y, width)
        excess = max(excess, float(ratio.max(initial=0.0)))
        found += [(row, start + column) for row, column in _first(_lasting(ratio > quantile, width), width // 2)]
        found += [(row, start + column) for row, column in _first(_lasting(np.isfinite(x) != np.isfinite(y), width), 0)]
    if not found:
        return None, 0, excess
    row, column = min(found)
    return row, column, excess


def _first(flags: NDArray[np.bool_], delay: int) -> list[tuple[int, int]]:
    """First flagged row and its column, if any; the median of a stretch is over a jump once half of the stretch is."""
    rows, columns = np.nonzero(flags)
    return [(int(rows[0]) + (delay if rows[0] else 0), int(columns[0]))] if rows.size else []


def _excess(a: Floats, b: Floats, width: int) -> Floats:
    """Size of the median difference of each stretch of `width` rows over its noise; (steps - width + 1, labels)."""
    with np.errstate(all="ignore"):
        gap = np.abs(_rolling_median(a - b, width))
        single = np.sqrt(_local_variance(a, width) + _local_variance(b, width)) * math.sqrt(math.pi / 2 / width)
        wander = np.sqrt(_block_variance(a, width) + _block_variance(b, width))
        level = np.maximum(np.abs(_rolling_median(a, width)), np.abs(_rolling_median(b, width)))
        noise = np.nan_to_num(np.fmax(single, wander))
        return np.where(gap > _RESOLUTION * level, gap / noise, 0.0)


def _rolling_median(values: Floats, width: int) -> Floats:
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(values, width, axis=0), axis=-1))


def _roughness(values: Floats) -> Floats:
    """Second differences in units of the noise of a single value, where that noise is independent."""
    return np.abs(np.diff(values, n=2, axis=0)) / math.sqrt(6.0)


def _local_variance(values: Floats, width: int) -> Floats:
    """Variance of single values around each stretch, from second differences, robustly."""
    rough = _roughness(values)
    around = min(_NOISE_AROUND * width, len(rough))
    medians = np.median(np.lib.stride_tricks.sliding_window_view(rough, around, axis=0), axis=-1)
    starts = np.arange(len(values) - width + 1) - (around + 2 - width) // 2
    return np.asarray((_GAUSSIAN_MAD * medians[np.clip(starts, 0, len(medians) - 1)]) ** 2)


def _block_variance(values: Floats, width: int) -> Floats:
    """Variance of the medians of successive stretches, one number a label, trends left out."""
    blocks = len(values) // width
    if blocks < 3:
        return np.zeros(values.shape[1])
    medians = np.median(values[: blocks * width].reshape(blocks, width, -1), axis=1)
    return np.asarray((_GAUSSIAN_MAD * np.median(_roughness(medians), axis=0)) ** 2)


def _lasting(flags: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Rows from which a flag holds `width` times in a row, or up to the end."""
    length = np.zeros(flags.shape, dtype=np.int64)
    run = np.zeros(flags.shape[1], dtype=np.int64)
    for row in range(len(flags) - 1, -1, -1):
        run = np.where(flags[row], run + 1, 0)
        length[row] = run
    reaching = length == (len(flags) - np.arange(len(flags)))[:, None]
    return np.asarray((length >= width) | (flags & reaching))


def _quantile(probability: float) -> float:
    from scipy.stats import norm

    return float(norm.isf(probability / 2))


def _plain(value: float) -> float | str | None:
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)
