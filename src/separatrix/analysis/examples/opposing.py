"""Opposing signals: groups of examples whose losses a single step moves strongly, and against one another.

Rosenfeld and Risteski 2023, "Outliers with Opposing Signals Have an Outsized Effect on Neural Network Optimization".
They are found as in the paper, by the largest changes of the loss of single examples from one step to the next.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from separatrix.analysis.examples.errors import ExamplesError
from separatrix.analysis.examples.reading import table, trajectories
from separatrix.runs import Run


@dataclasses.dataclass(frozen=True)
class OpposingGroups:
    """The examples whose loss rose and fell most from row `row` to the next, the strongest first.

    `rise` and `fall` (negative) are the groups' mean changes. `correlation` is that of the two groups' mean changes
    over all steps: near -1 where what helps one group hurts the other throughout. `share` is the part of all absolute
    change at that step that the two groups carry, `opposition` the part of all change that cancels: 1 minus
    |sum of changes| / sum of |changes|.
    """

    row: int
    rising: Int[np.ndarray, " size"]
    falling: Int[np.ndarray, " size"]
    rise: float
    fall: float
    correlation: float
    share: float
    opposition: float


def sharp_rows(losses: Float[np.ndarray, " epochs examples"], count: int = 1) -> Int[np.ndarray, " count"]:
    """Rows after which single losses changed most although the total hardly did, the strongest first.

    The strength of a step is the change that cancels, sum of |changes| - |sum of changes|: large where losses rise and
    fall together, zero where all fall.

    Raises:
        ExamplesError: losses are not (epochs, examples) with two rows or more.
    """
    changes = np.diff(table(losses, "losses", 2), axis=0)
    strength = np.nansum(np.abs(changes), axis=1) - np.abs(np.nansum(changes, axis=1))
    return np.argsort(-strength, kind="stable")[:count]


def opposing_groups(losses: Float[np.ndarray, " epochs examples"], size: int, row: int | None = None) -> OpposingGroups:
    """The two groups of `size` examples around the step after a row; by default that where most change cancels.

    Rows are consecutive losses of the same examples: epochs, or steps of a full batch.

    Raises:
        ExamplesError: there are fewer than two rows or than `size` examples that rise, or that fall; no such row.
    """
    values = table(losses, "losses", 2)
    at = int(sharp_rows(values)[0]) if row is None else row
    if not 0 <= at < len(values) - 1:
        raise ExamplesError(f"row {at} of {len(values)}: choose one from 0 to {len(values) - 2}, which has a next")
    changes = np.diff(values, axis=0)
    step = changes[at]
    most = min(int((step > 0).sum()), int((step < 0).sum()))
    if not 1 <= size <= most:
        raise ExamplesError(f"groups of {size} at row {at}: only {most} examples rise or fall there, ask for 1 to that")
    order = np.argsort(np.where(np.isnan(step), 0.0, step), kind="stable")
    rising, falling = order[::-1][:size].copy(), order[:size].copy()
    total = float(np.nansum(np.abs(step)))
    return OpposingGroups(
        row=at,
        rising=rising,
        falling=falling,
        rise=float(step[rising].mean()),
        fall=float(step[falling].mean()),
        correlation=_correlation(group_changes(values, rising), group_changes(values, falling)),
        share=float(np.abs(step[np.concatenate((rising, falling))]).sum() / total),
        opposition=1.0 - abs(float(np.nansum(step))) / total,
    )


def group_changes(
    losses: Float[np.ndarray, " epochs examples"], group: Int[np.ndarray, " size"]
) -> Float[np.ndarray, " changes"]:
    """Change of a group's mean loss from each row to the next; NaN where any of it was not seen."""
    changes: np.ndarray = np.diff(table(losses, "losses", 2)[:, group].mean(axis=1))
    return changes


def alternation(changes: Float[np.ndarray, " changes"]) -> float:
    """Correlation of successive changes: -1 for a loss that swings up and down, near 1 for a steady one.

    About zero, not about the mean, so that a steady fall counts as steady. NaN without two finite changes in sequence.
    """
    first, second = changes[:-1], changes[1:]
    both = np.isfinite(first) & np.isfinite(second)
    size = float(np.sqrt(np.square(first[both]).sum() * np.square(second[both]).sum()))
    return float((first[both] * second[both]).sum()) / size if size > 0 else float("nan")


def run_opposing_groups(run: Run, size: int, row: int | None = None) -> OpposingGroups:
    """The opposing groups of a recorded run, from `example_loss`; positions are those of the run's examples.

    Raises:
        UnknownSeriesError: the run holds no such series.
        ExamplesError: see `opposing_groups`.
    """
    return opposing_groups(trajectories(run, "example_loss").values["example_loss"], size, row)


def _correlation(first: Float[np.ndarray, " changes"], second: Float[np.ndarray, " changes"]) -> float:
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 2 or np.ptp(first[both]) == 0 or np.ptp(second[both]) == 0:
        return float("nan")
    return float(np.corrcoef(first[both], second[both])[0, 1])
