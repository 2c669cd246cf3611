"""Compares what two networks, or a network and one of its checkpoints, make of the same inputs, layer by layer."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from separatrix.probes._layers import Features, leaf_features, leaf_layers
from separatrix.probes._similarity import cca, linear_cka, rbf_cka, svcca
from separatrix.probes.representation import unforced
from separatrix.record.ownership import unwrapped
from separatrix.record.shadow import undisturbed
from separatrix.runs.errors import UsageError

Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

MEASURES: Mapping[str, Measure] = {
    "cka": linear_cka,
    "cka-debiased": lambda x, y: linear_cka(x, y, debiased=True),
    "rbf-cka": rbf_cka,
    "cca": lambda x, y: unforced(found := cca(x, y), found.mean),
    "svcca": lambda x, y: unforced(found := svcca(x, y), found.mean),
    "pwcca": lambda x, y: unforced(found := cca(x, y), found.weighted_mean),
}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How alike the layers of two networks are.

    Attributes:
        values: (layers of a, layers of b) float64; NaN where the measure is not defined, and where a canonical
            correlation is 1 whatever the data, since there are too few examples for so many features.
        layers_a: names of the leaf modules of a, in order.
        layers_b: those of b.
        measure: name of the measure.
    """

    values: torch.Tensor
    layers_a: tuple[str, ...]
    layers_b: tuple[str, ...]
    measure: str

    @property
    def same_layers(self) -> dict[str, float]:
        """The values of layers that have the same name in both."""
        columns = {name: j for j, name in enumerate(self.layers_b)}
        return {name: float(self.values[i, columns[name]]) for i, name in enumerate(self.layers_a) if name in columns}


def compare_representations(
    model_a: nn.Module,
    model_b: nn.Module | Mapping[str, torch.Tensor],
    inputs: torch.Tensor | Sequence[Any],
    *,
    measure: str | Measure = "cka",
    layers: Sequence[str] | None = None,
) -> Comparison:
    """Similarity of every leaf module of one network with every one of another on the same inputs.

    `model_b` may be the state dict of a checkpoint of `model_a`. Inputs: one tensor, or all arguments of the models.
    Rows are examples (the first axis of what a module gives), everything else of a module's output counts as features,
    so that layers of different resolution can be compared. `measure` is "cka", "cka-debiased", "rbf-cka", "cca",
    "svcca", "pwcca", or a function of two feature matrices (n, d). `layers` names the modules to compare, by default
    every leaf that is called. Networks run in evaluation mode without gradients; modes, buffers and random states stay
    as they are. Cost: one forward of each, and the measure for every pair of layers.

    Raises:
        UsageError: an unknown measure or layer, a state dict that does not fit, or no layer with as many rows as the
            first input has.

    Source: Kornblith et al. 2019, arXiv:1905.00414; Raghu et al. 2017, arXiv:1706.05806.
    """
    compare = MEASURES.get(measure) if isinstance(measure, str) else measure
    if compare is None:
        raise UsageError(f"measure {measure!r} is unknown: use one of {', '.join(MEASURES)}, or a function.")
    arguments = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    a = _features(model_a, arguments, layers)
    b = _features(_loaded(model_a, model_b), arguments, layers)
    values = [[float(compare(x, y)) for y in b.values()] for x in a.values()]
    name = measure if isinstance(measure, str) else getattr(measure, "__name__", "function")
    return Comparison(torch.tensor(values, dtype=torch.float64), tuple(a), tuple(b), name)


def _loaded(model: nn.Module, other: nn.Module | Mapping[str, torch.Tensor]) -> nn.Module:
    if isinstance(other, nn.Module):
        return other
    loaded = copy.deepcopy(unwrapped(model))
    try:
        loaded.load_state_dict(dict(other))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"the state dict does not fit {type(loaded).__name__} ({reason}): give one of its own."
        ) from error
    return loaded


def _features(model: nn.Module, arguments: tuple[Any, ...], layers: Sequence[str] | None) -> Features:
    root = unwrapped(model)
    leaves = leaf_layers(root)
    if layers is not None:
        named = {**dict(root.named_modules()), **leaves}
        if unknown := [name for name in layers if name not in named]:
            raise UsageError(f"{type(root).__name__} has no layer {unknown[0]!r}: use names of named_modules().")
        leaves = {name: named[name] for name in layers}
    with undisturbed(), _evaluating(root):
        found = leaf_features(leaves, lambda: root(*arguments), lambda _, output: output.detach().clone())
    rows = next((len(x) for x in arguments if isinstance(x, torch.Tensor) and x.dim()), 0)
    features = {name: x.reshape(len(x), -1) for name, x in found.items() if x.dim() and len(x) == rows}
    if not features:
        raise UsageError(f"no layer of {type(root).__name__} gives {rows} rows: put examples along the first axis.")
    return features


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
