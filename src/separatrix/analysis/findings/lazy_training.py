"""The network learns as its linearisation at the start would: its features stay what they were.

The index `lazy_rich_index` (0: outputs move as the linearised network's on the same way; 1: not at all) is at most 0.1
in the median of its last three values from the second half of the run, while the loss has fallen by
half: nine tenths of what was learnt is linear in the weights. Networks of usual width and scale reach 0.3 to 1 within a
hundred steps; the index falls as the inverse of the output's scale.

The index tells of what happened since the first snapshot, where it is NaN: it is only used if four fifths of the
loss were still to be lost then.

Where the index does not tell, the length of the way that the weights went bounds their distance: the sum over the
steps of `update_ratio`, interpolated between samples. If it is below 0.05 for every matrix of weights while the loss
has fallen by nine tenths, hardly anything moved.

Models without a hidden layer are linear in their weights and always lazy: they are not judged, nor are those that are
mostly frozen. To be lazy is no fault of itself (fine-tuning often is). It is a warning where generalisation suffers:
the loss of the evaluation ends above half of its start, although the training's has fallen below a tenth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.profiles import is_normalisation, kinds, module_of, table
from separatrix.analysis.trends import Track, end_points, learning_rate, loss_tracks, number, start, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_LAZY = 0.1
_LEARNT = 0.5
_UNLEARNT = 0.8
_WAY = 0.05
_LEARNT_MUCH = 0.1
_GENERALISED = 0.5
_FEWEST_MATRICES = 2
_FEWEST_STEPS = 50
_RECENT = 3


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for the whole run."""
    indices = tracks(run, "lazy_rich_index")
    index = indices[0].finite() if indices and len(indices[0].finite()) else None
    losses, opposed = loss_tracks(run)
    if not losses or (index is None and "update_ratio" not in run):
        return NotAssessed(rule.code, ("loss, and lazy_rich_index or update_ratio",))
    matrices = _matrices(run)
    if opposed or len(matrices) < _FEWEST_MATRICES or int(losses[0].steps[-1]) < _FEWEST_STEPS:
        return []
    loss = losses[0]
    began, end = float(start(loss).mean()), float(np.median(loss.values[-end_points(len(loss)) :]))
    if began <= 0.0 or end > _LEARNT * began or end < 0.0:
        return []
    early = index is not None and _level(loss, int(indices[0].steps[0])) >= _UNLEARNT * began
    measured = _late_index(index, loss) if index is not None and early else None
    seen = measured if measured is not None and measured <= _LAZY else None
    way = None if measured is not None else _longest_way(run, matrices, int(loss.steps[-1]))
    if seen is None and (way is None or way > _WAY or end > _LEARNT_MUCH * began):
        return []
    poor, kept = _generalises_poorly(run, began, end)
    how = (
        f"the outputs moved as those of the network linearised at its start (lazy-rich index {number(seen)})"
        if seen is not None
        else f"no matrix of weights went further than {number(way or 0.0)} of its size"
    )
    rate = learning_rate(run, None)
    return [
        Finding(
            code=rule.code,
            severity="warning" if poor else "info",
            confidence=0.85 if seen is not None else 0.6,
            step=None,
            summary=(
                f"Features were not learnt: the loss fell from {number(began)} to {number(end)} while {how}"
                + (f"; the evaluation loss ends at {number(kept)}." if poor and kept is not None else ".")
            ),
            remedy=(
                "Make the output's scale smaller (a factor on the logits, the last layer's initial weights) and the"
                f" learning rate larger{f' (now {number(rate)})' if rate else ''}, or scale by maximal update"
                f" parametrisation; the index {number(seen)} falls as the inverse of that scale."
                if seen is not None
                else "Make the output's scale smaller (a factor on the logits, the last layer's initial weights) and"
                f" the learning rate larger{f' (now {number(rate)})' if rate else ''}: weights moved by"
                f" {number(way or 0.0)} at most."
            ),
            evidence={
                "series": [*(["lazy_rich_index"] if seen is not None else ["update_ratio"]), "loss"],
                "labels": [],
                "lazy_rich_index": seen,
                "longest_way": way,
                "loss_start": began,
                "loss_end": end,
                "eval_loss_end": kept,
            },
            source=rule.source,
        )
    ]


def _matrices(run: Run) -> list[str]:
    """Weights that train, without embeddings and normalisations."""
    kind_of = kinds(run)
    return [
        str(p["name"])
        for p in run.parameters
        if len(p["shape"]) >= 2
        and p.get("requires_grad", True)
        and p.get("optimizer")
        and not is_normalisation(kind_of.get(module_of(p), ""))
        and "embedding" not in kind_of.get(module_of(p), "").lower()
    ]


def _level(loss: Track, step: int) -> float:
    """The loss around a step."""
    at = int(np.searchsorted(loss.steps, step))
    return float(np.median(loss.values[max(0, at - _RECENT) : at + _RECENT + 1]))


def _late_index(index: Track, loss: Track) -> float | None:
    late = index.values[index.steps >= int(loss.steps[-1]) / 2]
    return float(np.median(late[-_RECENT:])) if late.size else None


def _longest_way(run: Run, matrices: Sequence[str], last: int) -> float | None:
    """The longest of the matrices' ways in parts of their size, from sampled updates; None where one is unknown."""
    ratios = table(run, "update_ratio")
    ways = []
    for name in matrices:
        steps, values = ratios.column(name)
        if len(values) < 2 or not np.isfinite(values).all():
            return None
        ways.append(float(np.interp(np.arange(1, last + 1), steps, values).sum()))
    return max(ways)


def _generalises_poorly(run: Run, began: float, end: float) -> tuple[bool, float | None]:
    evaluations = [t.finite() for t in tracks(run, "eval_loss")]
    if not evaluations or not len(evaluations[0]):
        return False, None
    kept = float(np.median(evaluations[0].values[-_RECENT:]))
    opening = max(began, float(evaluations[0].values[0]))
    return end <= _LEARNT_MUCH * began and kept >= _GENERALISED * opening, kept


rule = FindingRule(
    code="lazy-training",
    title="Lazy training",
    needs=("loss",),
    source="Chizat, Oyallon & Bach 2019, arXiv:1812.07956; Jacot et al. 2018, arXiv:1806.07572",
    assess=assess,
    caused_by=("lr-too-low",),
)
