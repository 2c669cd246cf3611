"""Warm-up: the learning rate rises from the first step to its highest value.

It must rise at least three times and by half in all: a single jump is a change of plan, and a rise later on a restart.
The rise must be over in the first half of the run, since a rate that keeps rising is a range test.
"""

from __future__ import annotations

import numpy as np

from separatrix.analysis.phases.phase import Phase, PhaseRule
from separatrix.analysis.trends import Track, tracks
from separatrix.runs import Run

_RISES = 3
_FACTOR = 1.5
_LATEST = 0.5


def find(run: Run) -> list[Phase]:
    """The warm-up of the group whose rate rises most."""
    last = max((int(track.steps[-1]) for name in ("loss", "learning_rate") for track in tracks(run, name)), default=0)
    found = [phase for track in tracks(run, "learning_rate") for phase in _warm_up(track.finite(), last)]
    return sorted(found, key=lambda phase: -phase.evidence["to"])[:1]


def _warm_up(track: Track, last: int) -> list[Phase]:
    if len(track) <= _RISES:
        return []
    top = int(track.values.argmax())
    rising = np.diff(track.values[: top + 1])
    first, peak = float(track.values[0]), float(track.values[top])
    start, end = int(track.steps[0]), int(track.steps[top])
    rises = int((rising > 0).sum())
    if (rising < 0).any() or rises < _RISES or peak < _FACTOR * first or end - start > _LATEST * (last - start):
        return []
    evidence = {"series": ["learning_rate"], "from": first, "to": peak, "rises": rises}
    return [Phase(rule.name, start, end, evidence, 0.95 if rises >= 5 else 0.8)]


rule = PhaseRule(
    name="warm-up",
    title="The learning rate rises to its highest value",
    needs=(("learning_rate",),),
    source="Goyal et al. 2017, arXiv:1706.02677, section 2.2",
    find=find,
)
