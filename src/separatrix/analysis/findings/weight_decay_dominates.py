"""Weight decay pulls harder than the gradient: weights shrink, and what they could fit is not fitted.

The pull of decay is compared with the gradient's, over all weights of two or more dims (norms of everything measured at
a step), in the median over the first half of the measurements, which are dense early on, before the weights are gone:

- decay that is added to the gradient (SGD, Adam): weight_decay times the weights over the gradient;
- decoupled decay (AdamW): learning rate times weight_decay times the weights over the update, which holds both.

In usual trainings the first is below 0.05 and the second below 0.1. At a half the gradient of a batch, a good part of
which is noise that cancels, no longer decides where the weights go. Balance is reached late in many healthy runs, so
two consequences are asked for: the weights lost at least half of their size, and the loss stays above 30 % of its start
or ends a third above its lowest level. Where the last measurement of the weights lies in the first half of the run,
what decay alone leaves of them stands in: exp(- sum of learning rate times weight_decay, over 1 - momentum). Strong
decay that still fits (as when a network is made to generalise late) is no finding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.profiles import Table, table
from separatrix.analysis.progress import matrices, progress, rates
from separatrix.analysis.trends import Floats, Track, number, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_BALANCE = 0.5
_SHRUNK = 0.5
_UNFINISHED = 0.3
_RISEN = 4 / 3
_FEWEST = 2
_USUAL = 0.05


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """One finding for the weights as a whole."""
    decay = max((float(t.values.max()) for t in tracks(run, "weight_decay") if len(t)), default=0.0)
    if decay <= 0:
        return []
    chosen = matrices(run)
    weights, decoupled = table(run, "weight_rms"), _is_decoupled(run)
    steps, sizes = _norms(run, weights, chosen)
    other = "update_rms" if decoupled else "gradient_rms"
    at, norms = _norms(run, table(run, other), chosen)
    common, here, there = np.intersect1d(steps, at, return_indices=True)
    loss, rate = progress(run), rates(run)
    if len(common) < 1 or loss is None or rate is None:
        return NotAssessed(rule.code, (f"weight_rms, {other} and loss over enough steps",))
    pull = decay * sizes[here]
    if decoupled:
        pull = pull * np.array([rate.at(int(step)) or 0.0 for step in common])
    ratios = pull / np.maximum(norms[there], np.finfo(np.float64).tiny)
    early = ratios[: max(_FEWEST, len(ratios) // 2)]
    ratio, shrunk = float(np.median(early)), float(sizes[-1] / sizes[0]) if sizes[0] > 0 else 1.0
    if steps[-1] < int(loss.track.steps[-1]) / 2:
        shrunk = min(shrunk, _left_by_decay(run, decay, rate))
    fails = loss.left > _UNFINISHED or loss.end > _RISEN * float(loss.levels.min())
    if ratio < _BALANCE or shrunk > _SHRUNK or not fails:
        return []
    against = "update" if decoupled else "gradient"
    return [
        Finding(
            code=rule.code,
            severity="warning",
            confidence=0.9 if shrunk < _SHRUNK / 2 else 0.75,
            step=int(common[0]),
            summary=(
                f"Weight decay {number(decay)} pulls {number(ratio)} times as hard as the {against}: the weights shrank"
                f" to {shrunk:.0%} of their size, and the loss stays at {loss.left:.0%} of its start."
            ),
            remedy=(
                f"Lower weight_decay from {number(decay)} to {number(decay * _USUAL / ratio)} or less, where it is at"
                f" most a twentieth of the {against}."
            ),
            evidence={
                "series": ["weight_decay", "weight_rms", other, "loss"],
                "labels": chosen,
                "decoupled": decoupled,
                "ratio": ratio,
                "weight_decay": decay,
                "suggested": decay * _USUAL / ratio,
                "weights_left": shrunk,
                "loss_left": loss.left,
            },
            source=rule.source,
        )
    ]


def _is_decoupled(run: Run) -> bool:
    optimizers = run.config.get("optimizers") or [{}]
    defaults = optimizers[0].get("defaults") or {}
    return bool(defaults.get("decoupled_weight_decay", "adamw" in str(optimizers[0].get("class", "")).lower()))


def _left_by_decay(run: Run, decay: float, rate: Track) -> float:
    momentum = max((float(t.values.max()) for t in tracks(run, "momentum") if len(t)), default=0.0)
    return float(np.exp(-decay * rate.values.sum() / max(1.0 - momentum, 1e-3)))


def _norms(run: Run, of: Table, chosen: Sequence[str]) -> tuple[np.ndarray, Floats]:
    """Steps at which all chosen parameters that ever were measured have values, and the norm of all of them there."""
    columns = [of.labels.index(label) for label in chosen if label in of.labels]
    if not columns:
        return np.empty(0, dtype=np.int64), np.empty(0)
    sizes = {str(p["name"]): float(p.get("numel", 1)) for p in run.parameters}
    numel = np.array([sizes[of.labels[column]] for column in columns])
    squares = of.values[:, columns] ** 2 * numel
    keep = np.isfinite(squares).all(axis=1)
    return of.steps[keep], np.sqrt(squares[keep].sum(axis=1))


rule = FindingRule(
    code="weight-decay-dominates",
    title="Weight decay dominates",
    needs=("weight_decay", "weight_rms"),
    source="Loshchilov & Hutter 2019, arXiv:1711.05101; Krogh & Hertz 1992 (NeurIPS)",
    assess=assess,
    caused_by=("frozen-parameters",),
)
