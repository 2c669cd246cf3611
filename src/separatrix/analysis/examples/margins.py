"""Area under the margin (AUM), and the threshold that examples mislabelled on purpose set for it.

Pleiss et al. 2020, "Identifying Mislabeled Data using the Area Under the Margin Ranking", sections 3.1 and 3.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from separatrix.analysis.examples.errors import ExamplesError
from separatrix.analysis.examples.reading import mean_seen, table, trajectories
from separatrix.runs import Run

PERCENTILE = 99.0
"""Of the AUM of threshold examples, below which an example counts as mislabelled (section 3.2 of the paper)."""


def margins(logits: Float[np.ndarray, " *rows classes"], labels: Int[np.ndarray, " ..."]) -> np.ndarray:
    """Logit of the assigned label less the largest of the others, of shape (*rows).

    Labels have the shape (*rows), or (examples,) for logits (epochs, examples, classes).

    Raises:
        ExamplesError: there are fewer than two classes, or labels do not fit the logits.
    """
    scores, given = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if scores.ndim < 1 or scores.shape[-1] < 2 or given.shape not in (scores.shape[:-1], scores.shape[1:-1]):
        raise ExamplesError(
            f"logits {scores.shape} for labels {given.shape}: give one label a row and at least two classes"
        )
    if given.size and not 0 <= given.min() <= given.max() < scores.shape[-1]:
        raise ExamplesError(
            f"labels from {given.min()} to {given.max()} for {scores.shape[-1]} classes: number classes from 0"
        )
    assigned = np.broadcast_to(given, scores.shape[:-1])
    own = np.take_along_axis(scores, assigned[..., None], axis=-1)[..., 0]
    others = scores.copy()
    np.put_along_axis(others, assigned[..., None], -np.inf, axis=-1)
    margin: np.ndarray = own - others.max(axis=-1)
    return margin


def area_under_margin(margin: Float[np.ndarray, " epochs examples"]) -> Float[np.ndarray, " examples"]:
    """Mean margin over the epochs in which an example was seen; NaN for one that never was.

    The paper averages up to the first drop of the learning rate, after which mislabelled examples are memorised: pass
    those rows only.

    Raises:
        ExamplesError: margins are not (epochs, examples).
    """
    return mean_seen(table(margin, "margins"))


def run_area_under_margin(run: Run, last_epoch: float | None = None) -> Float[np.ndarray, " examples"]:
    """AUM of a recorded run, from `example_margin`; rows after `last_epoch` are left out.

    Raises:
        UnknownSeriesError: the run holds no such series.
        ExamplesError: no row remains.
    """
    recorded = trajectories(run, "example_margin")
    kept = np.ones(len(recorded.epochs), dtype=bool) if last_epoch is None else recorded.epochs <= last_epoch
    return area_under_margin(recorded.values["example_margin"][kept])


def threshold_examples(examples: int, classes: int, runs: int, seed: int) -> list[Int[np.ndarray, " chosen"]]:
    """Examples to give the fake label `classes`, for each of `runs` trainings: disjoint, examples / (classes + 1) each.

    So many make the fake class as large as the others on average. Two runs judge every example.

    Raises:
        ExamplesError: there are too few examples for disjoint sets.
    """
    each = examples // (classes + 1)
    if each < 1 or runs < 1 or each * runs > examples:
        raise ExamplesError(
            f"{runs} disjoint threshold sets of {each} of {examples} examples: give 1 to {classes + 1} runs and"
            f" at least {classes + 1} examples"
        )
    order = np.random.default_rng(seed).permutation(examples)
    return [np.sort(order[run * each : (run + 1) * each]) for run in range(runs)]


@dataclasses.dataclass(frozen=True)
class ThresholdVerdict:
    """Which examples count as mislabelled, by AUM below the threshold of the run that judged them.

    `suspected` is False for an example that no run judged, of which `judged_by` is -1.
    """

    suspected: Bool[np.ndarray, " examples"]
    judged_by: Int[np.ndarray, " examples"]
    thresholds: tuple[float, ...]


def below_threshold(
    areas: Sequence[Float[np.ndarray, " examples"]],
    chosen: Sequence[Int[np.ndarray, " chosen"]],
    percentile: float = PERCENTILE,
) -> ThresholdVerdict:
    """Judge examples by the threshold that each run's fake class sets.

    `areas[k]` is the AUM of all examples in run k, with regard to the label each had there; `chosen[k]` are those that
    had the fake label. An example is judged by the first run in which it kept its own label.

    Raises:
        ExamplesError: there is no run, or sets and areas do not fit.
    """
    if not areas or len(areas) != len(chosen) or any(len(area) != len(areas[0]) for area in areas):
        raise ExamplesError(f"{len(areas)} AUMs and {len(chosen)} threshold sets: give one of each for every run")
    judged = np.full(len(areas[0]), -1, dtype=np.int64)
    suspected = np.zeros(len(areas[0]), dtype=bool)
    thresholds = []
    for run, (area, fake) in enumerate(zip(areas, chosen, strict=True)):
        thresholds.append(float(np.nanpercentile(area[fake], percentile)))
        own = ~np.isnan(area)
        own[fake] = False
        first = own & (judged < 0)
        judged[first] = run
        suspected[first] = area[first] <= thresholds[-1]
    return ThresholdVerdict(suspected, judged, tuple(thresholds))
