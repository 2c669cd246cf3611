"""What comes out of a network's leaf modules, as matrices whose rows are examples or their positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from separatrix.probes._replaying import Heard, at_values, listen
from separatrix.probes.activations import unit_dims
from separatrix.record.ownership import Model
from separatrix.record.snapshot import Snapshot

MOST_ROWS = 512
"""Of more rows, this many are taken at even distances."""

Features = dict[str, torch.Tensor]
"""Label of a module to its features (rows, units)."""


def feature_rows(module: nn.Module, output: torch.Tensor, most: int = MOST_ROWS) -> torch.Tensor:
    """A copy of `output` as (rows, units): units are channels of images and of convolutions, else the last axis.

    Rows are the examples times their positions; of more than `most`, that many at even distances.
    """
    if output.dim() < 2:
        rows = output.detach().reshape(-1, 1)
    else:
        reduced = unit_dims(module, output)
        unit = next(axis for axis in range(output.dim()) if axis not in reduced)
        rows = output.detach().movedim(unit, -1)
        rows = rows.reshape(-1, rows.shape[-1])
    return evenly(rows, most).clone()


def evenly(rows: torch.Tensor, most: int) -> torch.Tensor:
    """At most `most` of the rows, at even distances, the first among them."""
    return rows if len(rows) <= most else rows[torch.arange(most, device=rows.device) * len(rows) // most]


def leaf_layers(root: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """Leaf modules by label, in order; a module with parametrized weights in place of what computes them."""
    found = {}
    for name, module in Model(root, "", prefix).leaves():
        before, inside, _ = name.removeprefix(prefix).partition("parametrizations.")
        path = before.rstrip(".")
        if inside:
            name, module = prefix + (path or type(root).__name__), root.get_submodule(path)
        found[name] = module
    return found


def leaf_features(
    leaves: Mapping[str, nn.Module],
    forward: Callable[[], object],
    rows: Callable[[nn.Module, torch.Tensor], torch.Tensor] = feature_rows,
) -> Features:
    """Features of each of `leaves` that a forward calls and that gives real numbers; those of the last of its calls."""
    found: Features = {}

    def keep(name: str, heard: Heard) -> None:
        module, _, output = heard
        if output.is_floating_point() and output.numel():
            found[name] = rows(module, output)

    with torch.no_grad():
        listen(leaves, forward, keep)
    return {name: found[name] for name in leaves if name in found}


def snapshot_features(snapshot: Snapshot) -> Features:
    """Features of the leaf modules in the snapshot's forward, its random numbers and modes included."""
    if "features" not in snapshot.cache:
        snapshot.tick()
        layers = leaf_layers(snapshot.model, snapshot.prefix)
        snapshot.cache["features"] = leaf_features(layers, snapshot.forward)
    features: Features = snapshot.cache["features"]
    return features


def initial_features(snapshot: Snapshot) -> Features:
    """Features of the same forward at the parameters of the run's first snapshot; none where it has none."""
    if snapshot.initial is None:
        return {}
    if "initial features" not in snapshot.cache:
        snapshot.tick()
        layers = leaf_layers(snapshot.model, snapshot.prefix)
        with at_values(snapshot.parameters, snapshot.initial):
            snapshot.cache["initial features"] = leaf_features(layers, snapshot.forward)
    features: Features = snapshot.cache["initial features"]
    return features
