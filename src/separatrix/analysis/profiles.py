"""Values over parameters and modules: tables, kinds of layers, and how a quantity changes with depth."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from separatrix.analysis.trends import Floats, Integers, median_of
from separatrix.runs import Run

_ROUNDING = 1e-5
_SMALLEST = float(np.finfo(np.float64).tiny)


@dataclasses.dataclass(frozen=True)
class Table:
    """A series over labels: `values` has shape (steps, labels), NaN where a label was not measured."""

    steps: Integers
    labels: tuple[str, ...]
    values: Floats

    def column(self, label: str) -> tuple[Integers, Floats]:
        """Steps and values at which a label was measured; empty for an unknown label."""
        if label not in self.labels:
            return np.empty(0, dtype=np.int64), np.empty(0)
        values = self.values[:, self.labels.index(label)]
        keep = ~np.isnan(values)
        return self.steps[keep], values[keep]


def table(run: Run, name: str) -> Table:
    """A series over parameters, modules or classes; without rows if the run does not hold it so."""
    empty = Table(np.empty(0, dtype=np.int64), (), np.empty((0, 0)))
    if name not in run:
        return empty
    data = run.series(name)
    if len(data.coords) != 1:
        return empty
    (labels,) = data.coords.values()
    return Table(np.asarray(data.steps, dtype=np.int64), labels, np.asarray(data.values, dtype=np.float64))


def medians(of: Table) -> dict[str, float]:
    """Median over steps of the finite values of each label that has any."""
    found = {}
    for index, label in enumerate(of.labels):
        column = of.values[:, index]
        column = column[np.isfinite(column)]
        if column.size:
            found[label] = float(np.median(column))
    return found


def firsts(of: Table) -> dict[str, float]:
    """Values at the first step of all, of the labels that have a finite one."""
    first = of.values[0] if len(of.steps) else np.empty(0)
    return {label: float(value) for label, value in zip(of.labels, first, strict=False) if np.isfinite(value)}


def kinds(run: Run) -> dict[str, str]:
    """Class name of each leaf module, in forward order."""
    return {str(module["name"]): str(module.get("kind", "")) for module in run.modules if "name" in module}


def module_of(parameter: Mapping[str, Any]) -> str:
    """Name of the module that owns a parameter."""
    return str(parameter.get("module") or str(parameter["name"]).rpartition(".")[0])


def is_normalisation(kind: str) -> bool:
    """Whether modules of this class bring their input to a scale of their own."""
    return "norm" in kind.lower()


def input_rms(run: Run) -> float | None:
    """Root mean square of the model's input, from its mean and spread; None if not recorded."""
    mean, spread = median_of(run, "input_mean"), median_of(run, "input_std")
    return None if mean is None or spread is None else float(np.hypot(mean, spread))


@dataclasses.dataclass(frozen=True)
class DepthProfile:
    """A positive quantity from the layer nearest the input to the one nearest the output.

    `ratio` compares the median of the first third of the layers with that of the last third, so that one unusual layer
    does not decide; `trend` is Spearman's correlation of depth and level, in [-1, 1].
    """

    quantity: str
    labels: tuple[str, ...]
    levels: tuple[float, ...]
    ratio: float
    trend: float


def gradient_profiles(
    run: Run, fewest: int, level: Callable[[Table], dict[str, float]] = medians
) -> tuple[DepthProfile, ...]:
    """How gradients change with depth: of weights relative to the weights, and of biases, for each optimizer's layers.

    A weight's gradient is the product of the signal that comes back and the activation that went in; a bias's is the
    signal alone. Embeddings (most rows get none) and biases that a normalisation or a difference of outputs cancels are
    left out, and so are gradients of exactly zero, which say nothing about decay; the first layer's gradient is divided
    by the RMS of the input. `level` says which values count. Profiles of fewer than `fewest` layers are left out.
    """
    kind_of = kinds(run)
    order = {name: index for index, name in enumerate(kind_of)}
    parameters = sorted(run.parameters, key=lambda p: order.get(module_of(p), len(order)))
    levels, weights = level(table(run, "gradient_rms")), level(table(run, "weight_rms"))
    scale = input_rms(run) or 1.0
    found = []
    for optimizer in dict.fromkeys(parameter.get("optimizer") for parameter in parameters):
        own = [p for p in parameters if p.get("optimizer") == optimizer and levels.get(p["name"], 0.0) > 0.0]
        matrices = [p for p in own if len(p["shape"]) >= 2 and "embedding" not in kind_of.get(module_of(p), "").lower()]
        relative = [levels[p["name"]] / (weights.get(p["name"]) or 1.0) for p in matrices]
        if relative:
            relative[0] /= scale
        biases = [
            p for p in own if len(p["shape"]) == 1 and _carries_signal(p, kind_of) and not _cancelled(p, own, levels)
        ]
        candidates = (
            ("gradient_rms / weight_rms", matrices, relative),
            ("gradient_rms", biases, [levels[p["name"]] for p in biases]),
        )
        found += [
            depth_profile(quantity, [str(p["name"]) for p in chosen], values)
            for quantity, chosen, values in candidates
            if len(chosen) >= fewest
        ]
    return tuple(found)


def _carries_signal(parameter: Mapping[str, Any], kind_of: Mapping[str, str]) -> bool:
    name, module = str(parameter["name"]), module_of(parameter)
    if not name.rpartition(".")[2].startswith("bias") or module not in kind_of:
        return False
    following = list(kind_of)[list(kind_of).index(module) + 1 :]
    return is_normalisation(kind_of[module]) or not (following and is_normalisation(kind_of[following[0]]))


def _cancelled(bias: Mapping[str, Any], own: Sequence[Mapping[str, Any]], levels: Mapping[str, float]) -> bool:
    """Whether a bias has no gradient but rounding beside its layer's weights: a difference of outputs cancels it."""
    beside = [levels[p["name"]] for p in own if module_of(p) == module_of(bias) and len(p["shape"]) >= 2]
    return bool(beside) and levels[bias["name"]] < _ROUNDING * max(beside)


def depth_profile(quantity: str, labels: Sequence[str], values: Sequence[float]) -> DepthProfile:
    """The profile of positive values of layers, given from the one nearest the input to the one nearest the output."""
    logs = np.log(np.maximum(np.asarray(values, dtype=np.float64), _SMALLEST))
    third = max(1, len(logs) // 3)
    ratio = float(np.exp(np.clip(np.median(logs[:third]) - np.median(logs[-third:]), -700.0, 700.0)))
    return DepthProfile(quantity, tuple(labels), tuple(float(v) for v in values), ratio, _rank_correlation(logs))


def _rank_correlation(values: Floats) -> float:
    """Spearman's correlation of values with their position, ties sharing their mean rank; 0 for constant values."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    if len(counts) < 2:
        return 0.0
    return float(np.corrcoef(np.arange(len(values)), ranks)[0, 1])
