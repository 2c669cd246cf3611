"""Latent states of training: a hidden Markov model over the series of one or many runs.

Source: Hu, Chen, Saphra and Cho 2023, Latent State Models of Training Dynamics, arXiv:2308.09543.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from separatrix.analysis.phases.grid import common_grid
from separatrix.runs import Run
from separatrix.runs.errors import UsageError

_GAIN = 0.01  # of log-likelihood a round: far below what decides between numbers of states
_ROUNDS = 200


@dataclasses.dataclass(frozen=True)
class Transition:
    """A change of state: how often it was seen, and the series whose state means change most.

    `series` holds (name, change) pairs, largest change first, changes in standard deviations of the series over all
    runs.
    """

    source: int
    target: int
    count: int
    series: tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class LatentStates:
    """A hidden Markov model with Gaussian emissions, fitted to standardised series of one or more runs.

    States are numbered by when they are visited on average. `means` and `variances` (states, series) are in units of
    the standard deviation `scale` around `center`; `transitions` (states, states) has rows that sum to 1. `paths` holds
    the most likely states of each run (steps of that run,); `bic` the criterion for each number of states tried.
    """

    names: tuple[str, ...]
    center: Float[np.ndarray, " series"]
    scale: Float[np.ndarray, " series"]
    means: Float[np.ndarray, " states series"]
    variances: Float[np.ndarray, " states series"]
    initial: Float[np.ndarray, " states"]
    transitions: Float[np.ndarray, " states states"]
    paths: tuple[Int[np.ndarray, " steps"], ...]
    log_likelihood: float
    bic: Mapping[int, float]

    @property
    def count(self) -> int:
        """Number of states."""
        return len(self.means)

    def changes(self, most: int = 3) -> tuple[Transition, ...]:
        """Changes of state that the paths show, most frequent first, each with its `most` telling series."""
        pairs = np.zeros((self.count, self.count), dtype=np.int64)
        for path in self.paths:
            np.add.at(pairs, (path[:-1], path[1:]), 1)
        np.fill_diagonal(pairs, 0)
        seen = [(int(a), int(b)) for a, b in np.argwhere(pairs)]
        found = [Transition(a, b, int(pairs[a, b]), self._telling(a, b, most)) for a, b in seen]
        return tuple(sorted(found, key=lambda t: (-t.count, t.source, t.target)))

    def _telling(self, source: int, target: int, most: int) -> tuple[tuple[str, float], ...]:
        change = self.means[target] - self.means[source]
        order = np.argsort(-np.abs(change), kind="stable")[:most]
        return tuple((self.names[i], float(change[i])) for i in order)


def run_states(runs: Sequence[Run], names: Sequence[str] = (), *, points: int = 100, **options: Any) -> LatentStates:
    """`latent_states` over runs, whose series are put on grids of `points` steps by `common_grid`.

    Without `names` the scalar series that vary in all runs are taken.

    Raises:
        UsageError: the runs share no such series, or see `latent_states`.
    """
    grids = [common_grid(run, names, points=points) for run in runs]
    shared = [name for name in grids[0].names if all(name in grid.names for grid in grids)] if grids else []
    if not shared:
        raise UsageError(f"{len(runs)} runs share no scalar series that varies: name series that all of them hold")
    uneven = {name for name in shared if len({name in grid.logarithmic for grid in grids}) > 1}
    return latent_states([_columns(grid, shared, uneven) for grid in grids], shared, **options)


def _columns(grid: Any, shared: Sequence[str], uneven: set[str]) -> Float[np.ndarray, " steps series"]:
    """The shared columns; one that only some runs give as a logarithm is turned back."""
    columns = []
    for name in shared:
        column = grid.values[:, grid.names.index(name)]
        columns.append(np.exp(column) if name in uneven and name in grid.logarithmic else column)
    return np.stack(columns, axis=1)


def latent_states(
    sequences: Sequence[Float[np.ndarray, " steps series"]],
    names: Sequence[str] = (),
    *,
    states: Sequence[int] = (1, 2, 3, 4, 5, 6, 7, 8),
    starts: int = 3,
    seed: int = 0,
    resolution: float = 0.05,
) -> LatentStates:
    """The hidden Markov model of the number of states, among `states`, with the lowest BIC.

    Series are standardised over all sequences together. Each number of states is fitted by expectation maximisation
    from `starts` seeded starts (k-means), the likeliest kept. A state's standard deviation is at least `resolution`
    standard deviations of the series, so that a stretch of equal values has no infinite likelihood. BIC is p log N -
    2 log L, with p = k^2 - 1 + 2 k d for k states and d series, and N all steps. Successive values within a state are
    taken as independent: series that drift smoothly ask for more states than there are.

    Args:
        sequences: one array (steps, series) of finite values a run; lengths may differ.
        names: of the series.
        states: numbers of states to try.
        starts: fits for each number.
        seed: of the starts.
        resolution: smallest standard deviation of a state, in standard deviations of the series.

    Raises:
        UsageError: there is nothing to fit: no values, values that are not finite, or series that never vary.

    Cost: for each start and each of at most 200 rounds, of the order of N k (k + d).
    """
    tables = [np.asarray(sequence, dtype=np.float64) for sequence in sequences]
    _check(tables, states)
    pooled = np.concatenate(tables)
    center, scale = pooled.mean(axis=0), pooled.std(axis=0)
    named = tuple(names) or tuple(str(i) for i in range(pooled.shape[1]))
    if len(named) != pooled.shape[1]:
        raise UsageError(f"{len(named)} names for {pooled.shape[1]} series: give one for each")
    if not (scale > 0).all():
        still = [named[i] for i in np.flatnonzero(scale == 0)]
        raise UsageError(f"series {', '.join(still)} never varies: leave it out")
    data, lengths = (pooled - center) / scale, [len(table) for table in tables]
    best: dict[int, tuple[float, Any]] = {}
    for number in sorted(set(states)):
        fits = [_fitted(data, lengths, number, seed + start, resolution**2) for start in range(starts)]
        best[number] = max(fits, key=lambda fit: fit[0])
    bic = {k: _parameters(k, data.shape[1]) * math.log(len(data)) - 2 * fit[0] for k, fit in best.items()}
    chosen = min(bic, key=lambda k: bic[k])
    likelihood, model = best[chosen]
    path = model.predict(data, lengths)
    ends = np.cumsum(lengths)[:-1]
    order = _order(np.split(path, ends), chosen)
    rank = np.argsort(order)
    return LatentStates(
        names=named,
        center=center,
        scale=scale,
        means=model.means_[order],
        variances=np.array([np.diag(c) for c in model.covars_])[order],
        initial=model.startprob_[order],
        transitions=model.transmat_[np.ix_(order, order)],
        paths=tuple(np.asarray(rank[part]) for part in np.split(path, ends)),
        log_likelihood=likelihood,
        bic=bic,
    )


def _check(tables: Sequence[np.ndarray], states: Sequence[int]) -> None:
    if not tables or any(table.ndim != 2 or not table.size for table in tables):
        raise UsageError("latent states need at least one sequence of shape (steps, series): give some")
    if len({table.shape[1] for table in tables}) > 1 or not all(np.isfinite(table).all() for table in tables):
        raise UsageError("sequences differ in their series or hold values that are not finite: clean them first")
    length = sum(len(table) for table in tables)
    if not states or min(states) < 1 or max(states) > length:
        raise UsageError(f"states={list(states)} for {length} steps in all: give numbers from 1 up to that")


def _parameters(states: int, series: int) -> int:
    return states * states - 1 + 2 * states * series


def _fitted(data: np.ndarray, lengths: Sequence[int], states: int, seed: int, floor: float) -> tuple[float, Any]:
    """Log-likelihood and model after expectation maximisation with variances of at least `floor`."""
    from hmmlearn.hmm import GaussianHMM

    logging.getLogger("hmmlearn").setLevel(logging.ERROR)  # it warns of every round that is its only one
    model = GaussianHMM(
        states, covariance_type="diag", n_iter=1, covars_prior=0.0, min_covar=floor, random_state=seed, tol=0.0
    )
    before = -math.inf
    for _ in range(_ROUNDS):
        model.fit(data, lengths)
        model.init_params = ""
        model.covars_ = np.maximum(np.array([np.diag(c) for c in model.covars_]), floor)
        model.transmat_ = _rows(model.transmat_)
        likelihood = float(model.monitor_.history[-1])
        if likelihood - before < _GAIN:
            break
        before = likelihood
    return float(model.score(data, lengths)), model


def _rows(matrix: np.ndarray) -> np.ndarray:
    """Rows that sum to 1; a state that nothing leaves stays where it is."""
    empty = matrix.sum(axis=1) == 0
    matrix = np.where(empty[:, None], np.eye(len(matrix)), matrix)
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True))


def _order(paths: Sequence[np.ndarray], states: int) -> np.ndarray:
    """States by the mean relative time of their visits; those never visited last."""
    times = np.concatenate([np.linspace(0.0, 1.0, len(path)) for path in paths])
    joined = np.concatenate(paths)
    when = [times[joined == state].mean() if (joined == state).any() else math.inf for state in range(states)]
    return np.argsort(when, kind="stable")
