"""Scores of importance: the error's norm (EL2N) and the gradient's (GraNd), what to keep by them, how they agree.

Paul, Ganguli and Dziugaite 2021, "Deep Learning on a Data Diet: Finding Important Examples Early in Training".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas
from jaxtyping import Float, Int

from separatrix.analysis.examples.errors import ExamplesError
from separatrix.analysis.examples.reading import table, trajectories
from separatrix.runs import Run


def error_norms(
    probabilities: Float[np.ndarray, " *rows classes"], labels: Int[np.ndarray, " *rows"]
) -> Float[np.ndarray, " *rows"]:
    """EL2N: Euclidean norm of class probabilities less the one-hot label (definition 2.5 of the paper).

    Raises:
        ExamplesError: labels do not fit the probabilities.
    """
    chances, assigned = np.array(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if chances.ndim < 1 or assigned.shape != chances.shape[:-1]:
        raise ExamplesError(f"probabilities {chances.shape} for labels {assigned.shape}: give one label a row")
    if assigned.size and not 0 <= assigned.min() <= assigned.max() < chances.shape[-1]:
        raise ExamplesError(
            f"labels from {assigned.min()} to {assigned.max()} for {chances.shape[-1]} classes: number classes from 0"
        )
    own = np.take_along_axis(chances, assigned[..., None], axis=-1)
    np.put_along_axis(chances, assigned[..., None], own - 1.0, axis=-1)
    norms: np.ndarray = np.sqrt(np.square(chances).sum(axis=-1))
    return norms


def mean_over_seeds(scores: Sequence[Float[np.ndarray, " examples"]]) -> Float[np.ndarray, " examples"]:
    """Mean of one score over trainings from several initial weights, as the paper defines both scores.

    Raises:
        ExamplesError: there are none, or they differ in length.
    """
    if not scores or len({len(score) for score in scores}) != 1:
        raise ExamplesError(f"scores of lengths {[len(s) for s in scores]}: give one of the same length for each seed")
    means: np.ndarray = np.mean(np.asarray(scores, dtype=np.float64), axis=0)
    return means


def run_scores(run: Run, epoch: float, name: str = "example_error_norm") -> Float[np.ndarray, " examples"]:
    """A score of a recorded run at the last row whose epoch is at most `epoch`; `example_gradient_norm` is GraNd.

    Raises:
        UnknownSeriesError: the run holds no such series.
        ExamplesError: the run has no row that early.
    """
    recorded = trajectories(run, name)
    rows = np.flatnonzero(recorded.epochs <= epoch)
    if not rows.size:
        raise ExamplesError(
            f"{name} of {run.name} begins at epoch {recorded.epochs[0]:g}, not {epoch:g}: ask for later"
        )
    values: np.ndarray = recorded.values[name][rows[-1]]
    return values


def most_important(
    scores: Float[np.ndarray, " examples"], share: float, skip: float = 0.0
) -> Int[np.ndarray, " chosen"]:
    """The share of examples to keep: those of the highest scores, after the very highest `skip` of all.

    The paper skips some where labels are noisy, for the highest scores are then mislabelled examples. Sorted by
    position; ties go to the earlier example, and an example without a score is kept last.

    Raises:
        ExamplesError: share and skip are not shares of one whole.
    """
    if not (0.0 < share <= 1.0 and skip >= 0.0 and share + skip <= 1.0 + 1e-12):
        raise ExamplesError(f"share {share}, skip {skip}: give a share in (0, 1], and at most what it leaves to skip")
    first = round(skip * len(scores))
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    return np.sort(order[first : first + round(share * len(scores))])


def rank_correlation(first: Float[np.ndarray, " examples"], second: Float[np.ndarray, " examples"]) -> float:
    """Spearman's correlation over the examples that have both values, ties at their mean rank; NaN if one is constant.

    Infinite values, such as the rank of what was never learnt, come after all others.
    """
    both = ~(np.isnan(first) | np.isnan(second))
    ranks = [pandas.Series(np.asarray(values)[both]).rank().to_numpy() for values in (first, second)]
    if any(len(rank) < 2 or np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def agreement_with_the_end(scores: Float[np.ndarray, " epochs examples"]) -> Float[np.ndarray, " epochs"]:
    """Rank correlation of the scores of each epoch with those of the last one: how early they can be had.

    Raises:
        ExamplesError: scores are not (epochs, examples).
    """
    values = table(scores, "scores")
    return np.array([rank_correlation(row, values[-1]) for row in values])


def agreement_of_seeds(scores: Float[np.ndarray, " seeds examples"]) -> float:
    """Mean rank correlation over all pairs of trainings.

    Raises:
        ExamplesError: there are fewer than two.
    """
    values = table(scores, "scores of seeds", 2)
    pairs = [(i, j) for i in range(len(values)) for j in range(i)]
    return float(np.mean([rank_correlation(values[i], values[j]) for i, j in pairs]))
