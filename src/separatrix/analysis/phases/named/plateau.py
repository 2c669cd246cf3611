"""Plateau: the loss stays at one level for long and falls well below it later.

The loss is averaged over sixty stretches of equal length. A plateau is at least a tenth of the run in which the
averages stay within a fiftieth of the loss's whole range, or within six standard errors of their noise if that is more
(sixty values of Gaussian noise rarely range wider), and fall at less than a fifth of the mean pace of the whole run;
afterwards the loss falls by at least a fifth of the range below it. A loss that has come to rest at the end is no
plateau: nothing tells whether it would fall again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.phases.changes import noise_level
from separatrix.analysis.phases.named._levels import single, stretches
from separatrix.analysis.phases.phase import Phase, PhaseRule
from separatrix.analysis.trends import Track
from separatrix.runs import Run

_CELLS = 60
_SHARE = 0.1
_FLAT = 0.02
_FALL = 0.2
_ERRORS = 6.0
_NOISY = 0.5
_SLOW = 0.2


def find(run: Run) -> list[Phase]:
    """All plateaus, in order."""
    loss = single(run, "loss")
    if loss is None or len(loss) < 2 * _CELLS:
        return []
    parts = np.array_split(np.arange(len(loss)), _CELLS)
    means = np.array([loss.values[part].mean() for part in parts])
    noise = float(noise_level(loss.values[:, None])[0]) / np.sqrt(len(parts[0]))
    reach = float(np.ptp(means))
    tolerance = max(_FLAT * reach, _ERRORS * noise)
    if reach <= 0 or tolerance > _NOISY * _FALL * reach:
        return []
    resting = _resting(means, tolerance)
    return [_phase(loss, parts, means, *ends) for ends in stretches(resting)]


def _resting(means: np.ndarray, tolerance: float) -> np.ndarray:
    """Which cells are part of a plateau."""
    reach = float(np.ptp(means))
    resting = np.zeros(len(means), dtype=bool)
    for start in range(len(means)):
        end = _flat_until(means, start, tolerance)
        slow = end - start + 1 >= _SHARE * _CELLS and _pace(means[start : end + 1]) < _SLOW * reach / _CELLS
        if slow and end + 1 < len(means) and means[-1] < means[end] - _FALL * reach:
            resting[start : end + 1] = True
    return resting


def _phase(loss: Track, parts: Sequence[np.ndarray], means: np.ndarray, start: int, end: int) -> Phase:
    level = float(np.median(means[start : end + 1]))
    evidence = {"series": ["loss"], "level": level, "fall": level - float(means[-1])}
    first, last = int(loss.steps[parts[start][0]]), int(loss.steps[parts[end][-1]])
    return Phase(rule.name, first, last, evidence, 0.9 if end - start >= 2 * _SHARE * _CELLS else 0.75)


def _pace(means: np.ndarray) -> float:
    """Fall a cell, by least squares."""
    return -float(np.polyfit(np.arange(len(means)), means, 1)[0])


def _flat_until(means: np.ndarray, start: int, tolerance: float) -> int:
    """Last cell of the longest stretch from `start` whose averages differ by at most `tolerance`."""
    low = np.minimum.accumulate(means[start:])
    high = np.maximum.accumulate(means[start:])
    return start + int(np.flatnonzero(high - low <= tolerance)[-1])


rule = PhaseRule(
    name="plateau",
    title="The loss rests and falls later",
    needs=(("loss",),),
    source="Saad and Solla 1995, Physical Review Letters 74, 4337",
    find=find,
)
