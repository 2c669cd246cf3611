"""Forgetting events: examples that a training classified correctly once and wrongly later.

Toneva et al. 2019, "An Empirical Study of Example Forgetting during Deep Neural Network Learning".
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from separatrix.analysis.examples.reading import table, trajectories
from separatrix.runs import Run


@dataclasses.dataclass(frozen=True)
class Forgetting:
    """What a training learnt and forgot, for each example, in the order of the examples.

    `events` counts changes from correct to wrong between presentations; `first_learnt` is the row of the first correct
    one, infinite where there is none, NaN for an example that was never seen. `unforgettable` ones were learnt and
    never forgotten, `never_learnt` ones were seen and never correct.
    """

    events: Int[np.ndarray, " examples"]
    first_learnt: Float[np.ndarray, " examples"]
    unforgettable: Bool[np.ndarray, " examples"]
    never_learnt: Bool[np.ndarray, " examples"]

    @property
    def ranking(self) -> Float[np.ndarray, " examples"]:
        """Events to sort by: infinite for what was never learnt, as in the paper, NaN for what was never seen."""
        unseen = np.isnan(self.first_learnt)
        return np.where(unseen, np.nan, np.where(self.never_learnt, np.inf, self.events))


def forgetting(correct: np.ndarray) -> Forgetting:
    """Forgetting events from correctness (epochs, examples): 1 or True is correct, NaN not seen.

    Consecutive presentations are compared, however many rows lie between them. Linear in the size of the array.

    Raises:
        ExamplesError: it is not of two dimensions.
    """
    values = table(correct, "correctness")
    seen = ~np.isnan(values)
    right = seen & (values > 0.5)
    rows = np.arange(len(values))[:, None]
    last_seen = np.maximum.accumulate(np.where(seen, rows, -1), axis=0)
    earlier = np.vstack([np.full((1, values.shape[1]), -1), last_seen[:-1]])
    was_right = (earlier >= 0) & np.take_along_axis(right, np.maximum(earlier, 0), axis=0)
    events = (seen & was_right & ~right).sum(axis=0)
    learnt, ever = right.any(axis=0), seen.any(axis=0)
    first = np.where(learnt, right.argmax(axis=0).astype(np.float64), np.where(ever, np.inf, np.nan))
    return Forgetting(events.astype(np.int64), first, learnt & (events == 0), ever & ~learnt)


def run_forgetting(run: Run) -> Forgetting:
    """Forgetting events of a recorded run, from `example_correct`.

    Raises:
        UnknownSeriesError: the run holds no such series.
    """
    return forgetting(trajectories(run, "example_correct").values["example_correct"])
