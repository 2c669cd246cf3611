"""When a network fits its training examples and when it generalises, from the two accuracies."""

from __future__ import annotations

import dataclasses

import numpy as np

from separatrix.analysis.phases.named._levels import centred, lasting_from, single
from separatrix.runs import Run

_FITTED = 0.95
_STAYS = 0.25
_JUMP = 0.5
_FEWEST = 8
_LATE = 2.0


@dataclasses.dataclass(frozen=True)
class Fitting:
    """Steps and levels of a memorisation.

    Training accuracy is at least 0.95 from `fitted` on. Evaluation accuracy stays within a quarter of what training
    gained up to `stays_until`. If it then rises for good, it has made a tenth of its rise at `rises` and nine tenths
    at `risen`, to the level `final`; `start_level` is where it began.
    """

    fitted: int
    stays_until: int
    start_level: float
    train_level: float
    rises: int | None
    risen: int | None
    final: float


def fitting_of(run: Run) -> Fitting | None:
    """None where the accuracies are not both known often enough, or evaluation does not stay behind.

    Evaluation must stay behind for as many steps as training needed to fit, so that an ordinary delay is none.
    """
    train, evaluation = single(run, "accuracy"), single(run, "eval_accuracy")
    if train is None or evaluation is None or min(len(train), len(evaluation)) < _FEWEST:
        return None
    fitted_at = lasting_from(centred(train.values, 5) >= _FITTED)
    if fitted_at is None:
        return None
    fitted = int(train.steps[fitted_at])
    level = centred(evaluation.values, 3)
    began = float(np.median(level[: max(1, len(level) // 20)]))
    gained = float(np.median(train.values[fitted_at:])) - float(train.values[0])
    if gained < 0.2:
        return None
    above = np.flatnonzero((evaluation.steps >= fitted) & (level > began + _STAYS * gained))
    stays = int(evaluation.steps[above[0]]) if above.size else int(evaluation.steps[-1])
    behind = int(((evaluation.steps >= fitted) & (evaluation.steps < stays)).sum())
    first = int(min(train.steps[0], evaluation.steps[0]))
    if stays - first < _LATE * max(1, fitted - first) or behind < 3:
        return None
    final = float(np.median(level[-max(1, len(level) // 20) :]))
    rises = risen = None
    if final - began >= _JUMP * gained:
        marks = [np.flatnonzero(level >= began + share * (final - began)) for share in (0.1, 0.9)]
        later = [at[evaluation.steps[at] >= fitted] for at in marks]
        rises, risen = int(evaluation.steps[later[0][0]]), int(evaluation.steps[later[1][0]])
    return Fitting(fitted, stays, began, began + gained, rises, risen, final)
