"""What a named phase is, and which of them a run went through."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from separatrix.runs import Run
from separatrix.runs.discovery import members

ENTRY_POINTS = "separatrix.phases"
"""The entry-point group under which other packages offer rules."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of a training with a name: first and last step, the numbers that show it, how sure, in [0, 1].

    `evidence` holds plain values; its key `series` names the series that show it.
    """

    name: str
    start: int
    end: int
    evidence: Mapping[str, Any]
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class PhaseRule:
    """A rule that finds one kind of phase; one a file, found by walking `analysis.phases.named`.

    `needs` are groups of series, of each of which one must be there; `find` is called only then, and returns nothing
    where the evidence does not suffice.
    """

    name: str
    title: str
    needs: tuple[tuple[str, ...], ...]
    source: str
    find: Callable[[Run], Sequence[Phase]]


def phase_rules() -> dict[str, PhaseRule]:
    """Every known rule by name: those of this package, then those of other installed packages."""
    return members("separatrix.analysis.phases.named", PhaseRule, ENTRY_POINTS)


def phases(run: Run) -> tuple[Phase, ...]:
    """The named phases that a run went through, by first step; they may overlap, and most stretches have no name.

    A phase is named only where the series that define it were recorded and show it; a run without them has none. Each
    rule reads its series at their own steps; one that needs two series takes the value of the sparser one's step from
    the other by holding its last value. A rule that fails on a run gives a warning and no phase.
    """
    found: list[Phase] = []
    for rule in phase_rules().values():
        if all(any(name in run for name in group) for group in rule.needs):
            # Rules meet runs that nobody foresaw; one that fails must not hide what the others see.
            try:
                with np.errstate(all="ignore"):
                    found.extend(rule.find(run))
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                what = f"the rule of the phase {rule.name!r} failed on {run.name} ({reason}): it is left out"
                warnings.warn(what, RuntimeWarning, stacklevel=2)
    return tuple(sorted(found, key=lambda phase: (phase.start, phase.end, phase.name)))
