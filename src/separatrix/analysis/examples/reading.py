"""Series over examples, read from a run as arrays (epochs, examples) that share their rows and columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from separatrix.analysis.examples.errors import ExamplesError
from separatrix.runs import Run

if TYPE_CHECKING:
    import xarray


@dataclasses.dataclass(frozen=True)
class Trajectories:
    """Series over examples: `values[name]` has shape (epochs, examples), NaN where an example was not seen.

    `steps` and `epochs` tell when each row was written; `epochs` counts rows from 0 where the run has no epochs.
    """

    examples: tuple[str, ...]
    steps: Int[np.ndarray, " epochs"]
    epochs: Float[np.ndarray, " epochs"]
    values: Mapping[str, Float[np.ndarray, " epochs examples"]]


def trajectories(run: Run, *names: str) -> Trajectories:
    """The named series of a run over the examples and steps of the first; those that others lack are NaN there.

    Raises:
        UnknownSeriesError: the run holds no such series.
        ExamplesError: a series is not one value for each example and step.
    """
    arrays = {name: _over_examples(run, name) for name in names}
    first = arrays[names[0]]
    values = {
        name: np.asarray(
            (array if array is first else array.reindex(step=first.step, example=first.example)).values,
            dtype=np.float64,
        )
        for name, array in arrays.items()
    }
    steps = np.asarray(first.step.values, dtype=np.int64)
    epochs = first.coords["epoch"].values if "epoch" in first.coords else np.arange(len(steps))
    examples = tuple(str(label) for label in first.example.values)
    return Trajectories(examples, steps, np.asarray(epochs, dtype=np.float64), values)


def _over_examples(run: Run, name: str) -> xarray.DataArray:
    array = run[name]
    if array.dims != ("step", "example"):
        raise ExamplesError(
            f"series {name!r} of {run.name} has dimensions {', '.join(map(str, array.dims))}: name one over step and"
            " example, such as example_loss"
        )
    return array


def table(values: np.ndarray, what: str, fewest_epochs: int = 1) -> Float[np.ndarray, " epochs examples"]:
    """`values` in float64, checked to be (epochs, examples) with `fewest_epochs` rows or more.

    Raises:
        ExamplesError: they are not.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] < fewest_epochs or array.shape[1] < 1:
        raise ExamplesError(
            f"{what} of shape {array.shape}: give (epochs, examples), at least {fewest_epochs} epochs and one example"
        )
    return array


def mean_seen(values: Float[np.ndarray, " epochs examples"]) -> Float[np.ndarray, " examples"]:
    """Mean over the epochs in which an example was seen; NaN for one that never was."""
    seen = ~np.isnan(values)
    count = seen.sum(axis=0)
    total = np.where(seen, values, 0.0).sum(axis=0)
    means: np.ndarray = np.divide(total, count, out=np.full(values.shape[1], np.nan), where=count > 0)
    return means
