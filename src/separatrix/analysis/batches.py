"""Classes in the sampled batches: shares of labels and predictions, and how many rows they stand for."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from separatrix.analysis.profiles import table
from separatrix.analysis.trends import Floats, Integers, loss_tracks, tracks
from separatrix.runs import Run


@dataclasses.dataclass(frozen=True)
class ClassShares:
    """Shares of each class in the sampled batches.

    `labels` and `predictions` have shape (steps, classes) and rows of sum 1; `rows` (steps,) is how many labels a
    batch held. `by_example` tells one label an example from labels of pixels or tokens.
    """

    steps: Integers
    names: tuple[str, ...]
    labels: Floats
    predictions: Floats
    rows: Floats
    by_example: bool

    def since(self, step: float) -> ClassShares:
        """The samples at a step or later."""
        keep = self.steps >= step
        return dataclasses.replace(
            self,
            steps=self.steps[keep],
            labels=self.labels[keep],
            predictions=self.predictions[keep],
            rows=self.rows[keep],
        )


def class_shares(run: Run) -> ClassShares | None:
    """The shares of the classes that occur, of a loss with one label a row; None where the run does not tell.

    Several kinds of loss functions in one training are averaged in the recording and cannot be told apart: None. So it
    is with games of several losses, and with the tags of multi-label losses, which are no shares of one another.
    """
    labels, predictions = table(run, "label_share"), table(run, "prediction_share")
    sizes = [track.finite() for track in tracks(run, "batch_size")]
    kinds = [facts for facts in run.losses if facts.get("outputs")]
    if not labels.labels or len(kinds) != 1 or not len(labels.steps) or loss_tracks(run)[1]:
        return None
    shape = [int(n) for n in kinds[0]["outputs"]]
    count = len(labels.labels)
    if kinds[0]["name"].startswith("binary") and math.prod(shape) != shape[0]:
        return None
    per_call = shape[0] if kinds[0]["name"].startswith("binary") or len(shape) < 3 else math.prod(shape) // shape[1]
    size = sizes[0] if sizes and len(sizes[0]) else None
    rows = np.array([(size.at(int(step)) if size is not None else None) or shape[0] for step in labels.steps])
    typical = (size.at(int(labels.steps[0])) if size is not None else None) or float(shape[0])
    values = np.nan_to_num(labels.values)
    own = dict(zip(predictions.steps.tolist(), np.nan_to_num(predictions.values), strict=True))
    guesses = np.array([_arranged(own.get(int(step)), predictions.labels, labels.labels) for step in labels.steps])
    keep = np.isclose(values.sum(axis=1), 1.0, atol=1e-3)
    if not keep.any():
        return None
    return ClassShares(
        steps=labels.steps[keep],
        names=labels.labels,
        labels=values[keep],
        predictions=guesses.reshape(-1, count)[keep],
        rows=rows[keep] * per_call / max(typical, 1.0),
        by_example=size is not None and per_call == typical,
    )


def _arranged(values: Floats | None, names: tuple[str, ...], wanted: tuple[str, ...]) -> Floats:
    if values is None:
        return np.full(len(wanted), np.nan)
    by_name = dict(zip(names, values.tolist(), strict=True))
    return np.array([by_name.get(name, 0.0) for name in wanted])
