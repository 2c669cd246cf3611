"""Annealing: the learning rate falls from its highest value for good, and the loss falls with it.

The phase begins where the rate leaves its highest value for the last time (below 0.95 of it) and ends at its last
change. The rate must fall to half or less, and the loss (the evaluation loss where there is one) must be lower in the
last tenth of the phase than in its first by more than three standard errors of the medians: a schedule that ends long
after the loss has settled anneals nothing.
"""

from __future__ import annotations

import math

import numpy as np

from separatrix.analysis.phases.changes import noise_level
from separatrix.analysis.phases.named._levels import single
from separatrix.analysis.phases.phase import Phase, PhaseRule
from separatrix.analysis.trends import Track, tracks
from separatrix.runs import Run

_LEFT = 0.95
_FALL = 0.5
_ENDS = 0.1
_FEWEST = 10
_ERRORS = 3.0


def find(run: Run) -> list[Phase]:
    """The annealing of the group with the highest rate."""
    rates = [track.finite() for track in tracks(run, "learning_rate")]
    rate = max((track for track in rates if len(track) > 1), key=lambda t: float(t.values.max()), default=None)
    losses = [(name, track) for name in ("eval_loss", "loss") if (track := single(run, name)) is not None]
    if rate is None:
        return []
    for name, loss in losses:
        found = _annealing(rate, name, loss)
        if found:
            return found
    return []


def _annealing(rate: Track, name: str, loss: Track) -> list[Phase]:
    peak = float(rate.values.max())
    high = np.flatnonzero(rate.values >= _LEFT * peak)
    first = int(high[-1]) + 1
    if first >= len(rate) or float(rate.values[-1]) > _FALL * peak or (np.diff(rate.values[first - 1 :]) > 0).any():
        return []
    # A schedule in one step falls at once; the loss then has the rest of the run to follow.
    start, end = int(rate.steps[first]), int(rate.steps[-1])
    if end - start < _ENDS * (int(loss.steps[-1]) - int(loss.steps[0])):
        end = int(loss.steps[-1])
    during = loss.values[(loss.steps >= start) & (loss.steps <= end)]
    before = loss.values[loss.steps < start]
    if len(during) < _FEWEST:
        return []
    window = max(3, int(_ENDS * len(during)))
    opening = before[-window:] if len(before) >= window else during[:window]
    fall = float(np.median(opening) - np.median(during[-window:]))
    noise = float(noise_level(during[:, None])[0])
    error = 1.2533 * noise * math.sqrt(2.0 / window)
    if fall <= _ERRORS * error or fall <= 0.0:
        return []
    evidence = {
        "series": ["learning_rate", name],
        "rate_from": peak,
        "rate_to": float(rate.values[-1]),
        "loss_from": float(np.median(opening)),
        "loss_to": float(np.median(during[-window:])),
    }
    return [Phase(rule.name, start, end, evidence, 0.9 if fall > 2 * _ERRORS * error else 0.75)]


rule = PhaseRule(
    name="annealing",
    title="The learning rate falls, and the loss with it",
    needs=(("learning_rate",), ("loss", "eval_loss")),
    source="Wen et al. 2024, arXiv:2410.05192; Loshchilov and Hutter 2016, arXiv:1608.03983",
    find=find,
)
