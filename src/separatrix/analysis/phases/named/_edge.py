"""The stability ratio over the steps: learning rate times sharpness over the optimizer's limit; 1 is the edge."""

from __future__ import annotations

import dataclasses

from separatrix.analysis.phases.named._levels import held, single
from separatrix.analysis.trends import Floats, Integers, tracks
from separatrix.runs import Run

FEWEST = 8
"""Fewest measurements from which anything is said."""


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Ratio and sharpness (up to a constant factor) at the same steps, and the series they come from."""

    steps: Integers
    ratio: Floats
    sharpness: Floats
    series: tuple[str, ...]


def ratio_of(run: Run) -> Ratio | None:
    """`stability_ratio`, or sharpness times rate over 2 of plain gradient descent; None where neither is known.

    The learning rate must be known too: a ratio can rise because the rate does.
    """
    rate = single(run, "learning_rate")
    if rate is None:
        return None
    ratio = single(run, "stability_ratio")
    if ratio is not None and len(ratio) >= FEWEST:
        in_force = held(rate, ratio.steps)
        if (in_force > 0).all():
            return Ratio(ratio.steps, ratio.values, ratio.values / in_force, ("stability_ratio", "learning_rate"))
    sharpness = single(run, "sharpness")
    if sharpness is None or len(sharpness) < FEWEST or not _is_plain(run):
        return None
    values = held(rate, sharpness.steps) * sharpness.values / 2
    return Ratio(sharpness.steps, values, sharpness.values, ("sharpness", "learning_rate"))


def _is_plain(run: Run) -> bool:
    """Whether the optimizer is known to be gradient descent without momentum, whose limit is 2 over the rate."""
    momentum = [track.values for track in tracks(run, "momentum")]
    return bool(momentum) and all((values == 0).all() for values in momentum) and "beta1" not in run
