"""Edge of stability: the stability ratio hovers about 1.

The longest stretch of measurements whose running median lies in [0.85, 1.25]: full-batch trainings stay a few percent
above 1, and the estimate is good to a few percent. It must hold eight measurements and a tenth of all, and the ratio
must cross its own median there at least thrice: a ratio that passes through 1 on its way up does so once.
"""

from __future__ import annotations

import numpy as np

from separatrix.analysis.phases.named._edge import FEWEST, ratio_of
from separatrix.analysis.phases.named._levels import centred, stretches
from separatrix.analysis.phases.phase import Phase, PhaseRule
from separatrix.runs import Run

_BAND = (0.85, 1.25)
_SHARE = 0.1
_CROSSINGS = 3


def find(run: Run) -> list[Phase]:
    """The longest stay at the edge."""
    found = ratio_of(run)
    if found is None:
        return []
    level = centred(found.ratio, 5)
    inside = stretches((level >= _BAND[0]) & (level <= _BAND[1]))
    if not inside:
        return []
    start, end = max(inside, key=lambda ends: ends[1] - ends[0])
    ratio = found.ratio[start : end + 1]
    middle = float(np.median(ratio))
    signs = np.sign(ratio - middle)
    crossings = int((np.diff(signs[signs != 0]) != 0).sum())
    if len(ratio) < max(FEWEST, _SHARE * len(found.ratio)) or crossings < _CROSSINGS or _drifts(ratio):
        return []
    evidence = {
        "series": list(found.series),
        "median_ratio": middle,
        "measurements": len(ratio),
        "crossings": crossings,
    }
    sure = len(ratio) >= 2 * FEWEST and 0.9 <= middle <= 1.2
    return [Phase(rule.name, int(found.steps[start]), int(found.steps[end]), evidence, 0.9 if sure else 0.7)]


def _drifts(ratio: np.ndarray) -> bool:
    """Whether the ratio moves through the band rather than staying: thirds differ by more than the scatter within."""
    third = len(ratio) // 3
    first, last = ratio[:third], ratio[-third:]
    scatter = float(np.median(np.abs(ratio - centred(ratio, max(3, third))))) * 1.4826
    return bool(abs(np.median(last) - np.median(first)) > max(0.15, 3 * scatter))


rule = PhaseRule(
    name="edge of stability",
    title="The stability ratio hovers about 1",
    needs=(("stability_ratio", "sharpness"), ("learning_rate",)),
    source="Cohen et al. 2021, arXiv:2103.00065; Cohen et al. 2022, arXiv:2207.14484",
    find=find,
)
