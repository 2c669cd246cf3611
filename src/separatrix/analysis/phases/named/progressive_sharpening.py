"""Progressive sharpening: the sharpness rises until the stability ratio nears 1.

From the last low of the ratio to where it first reaches 0.9. In between the sharpness must rise by half at least,
with a rank correlation with the steps of 0.8 or more over five measurements or more; a ratio that rises only because
the learning rate does is none, and so is a rise that ends far below the edge.
"""

from __future__ import annotations

import numpy as np

from separatrix.analysis.phases.named._edge import ratio_of
from separatrix.analysis.phases.named._levels import centred
from separatrix.analysis.phases.phase import Phase, PhaseRule
from separatrix.runs import Run

_NEAR = 0.9
_RISE = 1.5
_CORRELATION = 0.8
_FEWEST = 5
_LOW = 1.1


def find(run: Run) -> list[Phase]:
    """The first rise to the edge."""
    found = ratio_of(run)
    if found is None:
        return []
    level = centred(found.ratio, 3)
    near = np.flatnonzero(level >= _NEAR)
    if not near.size or near[0] < _FEWEST - 1:
        return []
    end = int(near[0])
    lowest = float(level[: end + 1].min())
    start = int(np.flatnonzero(level[: end + 1] <= _LOW * lowest)[-1]) if lowest > 0 else 0
    start = min(start, end - _FEWEST + 1)
    sharpness = found.sharpness[start : end + 1]
    ends = (float(np.median(sharpness[:2])), float(np.median(sharpness[-2:])))
    if ends[0] <= 0 or ends[1] < _RISE * ends[0] or _correlation(sharpness) < _CORRELATION:
        return []
    evidence = {
        "series": list(found.series),
        "ratio_from": float(level[start]),
        "ratio_to": float(level[end]),
        "sharpness_factor": ends[1] / ends[0],
    }
    confidence = 0.9 if ends[1] > 2 * ends[0] and end - start >= 2 * _FEWEST else 0.75
    return [Phase(rule.name, int(found.steps[start]), int(found.steps[end]), evidence, confidence)]


def _correlation(values: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(np.arange(len(values)), values).statistic)


rule = PhaseRule(
    name="progressive sharpening",
    title="The sharpness rises towards the edge of stability",
    needs=(("stability_ratio", "sharpness"), ("learning_rate",)),
    source="Cohen et al. 2021, arXiv:2103.00065, section 3.1",
    find=find,
)
