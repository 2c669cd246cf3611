"""Metadata archaeology: which of a few known kinds of examples each example's loss trajectory looks like.

Siddiqui et al. 2022, "Metadata Archaeology: Unearthing Data Subsets by Leveraging Training Dynamics" (MAP-D). Probe
suites, examples whose kind is known because they were made or chosen so, are trained on with all others; an example is
of the kind of most of its nearest neighbours among them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from separatrix.analysis.examples.errors import ExamplesError
from separatrix.analysis.examples.reading import table, trajectories
from separatrix.runs import Run

NEIGHBOURS = 20
"""As in the paper."""

Suites = Mapping[str, Int[np.ndarray, " chosen"]]
"""Positions of the examples of each probe suite, by its name."""


@dataclasses.dataclass(frozen=True)
class Kinds:
    """Probabilities (examples, suites) of the kinds named in `suites`: shares of neighbours of that kind."""

    suites: tuple[str, ...]
    probabilities: Float[np.ndarray, " examples suites"]

    @property
    def likeliest(self) -> tuple[str, ...]:
        """The kind of each example; the earlier suite where two are equally likely."""
        return tuple(self.suites[index] for index in self.probabilities.argmax(axis=1))

    def probability(self, suite: str) -> Float[np.ndarray, " examples"]:
        """Probability of one kind, for every example.

        Raises:
            ExamplesError: there is no such suite.
        """
        if suite not in self.suites:
            raise ExamplesError(f"there is no probe suite {suite!r}: choose from {', '.join(self.suites)}")
        column: np.ndarray = self.probabilities[:, self.suites.index(suite)]
        return column


def typical_and_atypical(
    losses: Float[np.ndarray, " epochs examples"], size: int
) -> tuple[Int[np.ndarray, " chosen"], Int[np.ndarray, " chosen"]]:
    """The `size` examples of least and of largest mean loss in an earlier training on clean labels.

    The paper takes both ends of a consistency score, for which the mean loss over epochs stands in here.

    Raises:
        ExamplesError: there are fewer than two suites of that size.
    """
    mean = np.nanmean(table(losses, "losses"), axis=0)
    if not 1 <= size <= len(mean) // 2:
        raise ExamplesError(f"two suites of {size} from {len(mean)} examples: ask for at most {len(mean) // 2}")
    order = np.argsort(mean, kind="stable")
    return np.sort(order[:size]), np.sort(order[-size:])


def kinds(losses: Float[np.ndarray, " epochs examples"], suites: Suites, neighbours: int = NEIGHBOURS) -> Kinds:
    """The kinds of all examples by the k nearest probe examples, in Euclidean distance of loss trajectories.

    A probe example does not count among its own neighbours. An epoch in which an example was not seen takes its value
    from the one before, or else from the next. Costs examples x probes x epochs.

    Raises:
        ExamplesError: suites overlap, are empty or out of range, a probe was never seen, or there are not more probe
            examples than neighbours.
    """
    values = _filled(table(losses, "losses"))
    positions, of_suite = _probes(suites, values.shape[1])
    if not 1 <= neighbours < len(positions):
        raise ExamplesError(f"{neighbours} neighbours among {len(positions)} probe examples: ask for fewer, at least 1")
    seen = ~np.isnan(values).any(axis=0)
    if not seen[positions].all():
        raise ExamplesError(f"probe example {positions[~seen[positions]][0]} was never seen: leave it out of its suite")
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=neighbours + 1, algorithm="brute").fit(values[:, positions].T)
    found = np.full((values.shape[1], len(suites)), np.nan)
    examples = np.flatnonzero(seen)
    _, nearest = index.kneighbors(values[:, examples].T)
    itself = positions[nearest] == examples[:, None]
    # A probe leaves out itself, every other example its farthest; stable, so that the nearer ones keep their order.
    drop = np.where(itself.any(axis=1), itself.argmax(axis=1), neighbours)
    kept = nearest[np.arange(neighbours + 1)[None] != drop[:, None]].reshape(len(examples), neighbours)
    for suite in range(len(suites)):
        found[examples, suite] = (of_suite[kept] == suite).mean(axis=1)
    return Kinds(tuple(suites), found)


def confusion(of: Kinds, suites: Suites) -> Float[np.ndarray, " suites suites"]:
    """Share of each suite's probes (rows) that are taken for each kind (columns); rows sum to 1.

    Probes are no neighbours of themselves, so that this is leave-one-out cross-validation.
    """
    likeliest = np.array([of.suites.index(name) for name in of.likeliest])
    rows = [np.bincount(likeliest[np.asarray(suites[name])], minlength=len(of.suites)) for name in of.suites]
    return np.array([row / row.sum() for row in rows], dtype=np.float64)


def run_kinds(run: Run, suites: Mapping[str, tuple[str, ...]], neighbours: int = NEIGHBOURS) -> Kinds:
    """The kinds of the examples of a recorded run, from `example_loss`; suites name examples by their labels.

    Raises:
        UnknownSeriesError: the run holds no such series.
        ExamplesError: as `kinds`, or the run holds no example of that name.
    """
    recorded = trajectories(run, "example_loss")
    where = {example: position for position, example in enumerate(recorded.examples)}
    if missing := [name for names in suites.values() for name in names if name not in where]:
        raise ExamplesError(f"{run.name} holds no example {missing[0]!r}: name examples that were trained on")
    positions = {suite: np.array([where[name] for name in names]) for suite, names in suites.items()}
    return kinds(recorded.values["example_loss"], positions, neighbours)


def _probes(suites: Suites, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of all probes, and the number of the suite of each."""
    parts = [np.asarray(chosen, dtype=np.int64).reshape(-1) for chosen in suites.values()]
    positions = np.concatenate([*parts, np.empty(0, dtype=np.int64)])
    empty = [name for name, part in zip(suites, parts, strict=True) if not part.size]
    outside = positions.size and not 0 <= positions.min() <= positions.max() < examples
    if len(parts) < 2 or empty or outside or len(np.unique(positions)) < len(positions):
        raise ExamplesError(
            f"probe suites of {', '.join(f'{n} {len(p)}' for n, p in zip(suites, parts, strict=True)) or 'nothing'}:"
            f" give two or more that are not empty and share no example, of positions below {examples}"
        )
    return positions, np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def _filled(values: Float[np.ndarray, " epochs examples"]) -> Float[np.ndarray, " epochs examples"]:
    import pandas

    filled: np.ndarray = pandas.DataFrame(values).ffill().bfill().to_numpy()
    return filled
