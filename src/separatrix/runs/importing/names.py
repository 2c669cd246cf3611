"""Maps the names that other tools give to losses and rates onto the names of a recording, where there is no doubt."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from separatrix.runs.importing.log import LogSeries

_TRAINING = frozenset({"train", "training", "tr"})
_EVALUATION = frozenset({"val", "valid", "validation", "eval", "evaluation", "dev", "test", "testing"})
_OPTIMIZERS = frozenset(
    {"adam", "adamw", "sgd", "rmsprop", "adagrad", "adamax", "nadam", "radam", "lbfgs", "lion", "muon"}
)
_GROUP = re.compile(r"(?:pg|group)?\d*")
_GRANULARITY = frozenset({"step", "epoch", "iter", "iteration", "batch", "avg", "mean", "average"})
_QUANTITIES: dict[tuple[str, ...], str] = {
    ("loss",): "loss",
    ("lr",): "learning_rate",
    ("learning", "rate"): "learning_rate",
    ("learningrate",): "learning_rate",
    ("acc",): "accuracy",
    ("accuracy",): "accuracy",
    ("grad", "norm"): "gradient_norm",
    ("gradient", "norm"): "gradient_norm",
    ("gnorm",): "gradient_norm",
    ("epoch",): "epoch",
}
_EVALUATED = {"loss": "eval_loss", "accuracy": "eval_accuracy"}


def mapped(series: Sequence[LogSeries]) -> dict[str, str]:
    """The name in the run for each name in the log; names whose meaning is in doubt stay as they are.

    When several names mean the same, the plainest one is mapped (a value a step before a mean over an epoch, then the
    fewest words, then the most values), the others stay. Accuracies above 1 are percentages, not shares, and stay.
    Several learning rates belong to several parameter groups or optimizers and stay too.
    """
    candidates: dict[str, list[tuple[tuple[int, int, int, str], str]]] = {}
    for one in series:
        target, effort = _meaning(one.name)
        if target is None or one.coords or _is_percentage(target, one.values):
            continue
        candidates.setdefault(target, []).append(((*effort, -len(one.steps), one.name), one.name))
    names = {one.name: one.name for one in series}
    for target, ranked in candidates.items():
        best = min(ranked)[1]
        plainest = best == target
        if target in names and not plainest:
            continue
        if target == "learning_rate" and len(ranked) > 1 and not plainest:
            continue
        names[best] = target
    return names


def _meaning(name: str) -> tuple[str | None, tuple[int, int]]:
    """What a name says without doubt, and how many words beyond that it takes: (of granularity, in all)."""
    words = _words(name)
    kept = [word for word in words if word not in _TRAINING and word not in _EVALUATION]
    evaluation = any(word in _EVALUATION for word in words)
    training = any(word in _TRAINING for word in words)
    if kept[:1] == ["lr"]:
        kept = ["lr", *(word for word in kept[1:] if word not in _OPTIMIZERS and not _GROUP.fullmatch(word))]
    target = _QUANTITIES.get(tuple(kept))
    granular = 0
    if target is None:
        coarse = [word for word in kept if word not in _GRANULARITY]
        granular = 1 if kept[-1:] == ["step"] else 2
        target = _QUANTITIES.get(tuple(coarse))
    if target is None or (evaluation and training):
        return None, (0, 0)
    if evaluation:
        target = _EVALUATED.get(target)
    return target, (granular, len(words) + ("test" in words))


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", " ", name)
    return re.findall(r"[a-z0-9]+", spaced.lower())


def _is_percentage(target: str, values: np.ndarray) -> bool:
    return target in ("accuracy", "eval_accuracy") and bool((values > 1.0).any())
