"""What is being trained: models, labels of parameters and modules, and their description in the run."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from separatrix.record.modes import mode_effect
from separatrix.record.ownership import Model, find_models, is_compiled, unique, variable_name
from separatrix.record.sampler import Chunk, chunked
from separatrix.record.tracks import Track
from separatrix.runs.writer import RunWriter

_MOST_NODES = 200_000
_PLAIN = (int, float, str, tuple)


def graph_leaves(loss: torch.Tensor) -> list[torch.Tensor]:
    """The leaf tensors that want gradients behind `loss`, in the order the forward pass used them."""
    found: dict[int, torch.Tensor] = {}
    seen: set[Any] = set()
    stack = [loss.grad_fn]
    while stack and len(seen) < _MOST_NODES:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            found[id(variable)] = variable
        stack.extend(following for following, _ in node.next_functions)
    return list(reversed(found.values()))


@dataclasses.dataclass
class Subject:
    """The models and parameters of the tracked optimizers, with a label and a position for each.

    `left_out` are the models' parameters that no optimizer holds, `reached` the ids of those that got a gradient.
    `strangers` are the facts of parameters in other modules that get gradients too; None before the first loss.
    """

    models: list[Model]
    named: list[tuple[str, torch.Tensor]]
    tracks: list[Track]
    positions: dict[int, int]
    labels: dict[int, str]
    sizes: dict[int, int]
    leaves: weakref.WeakKeyDictionary[torch.nn.Module, tuple[str, int]]
    compiled: bool
    flags: tuple[bool, ...]
    left_out: tuple[torch.Tensor, ...]
    reached: set[int] = dataclasses.field(default_factory=set)
    strangers: list[dict[str, Any]] | None = None

    @classmethod
    def find(cls, tracks: list[Track], given: Sequence[torch.nn.Module], writer: RunWriter) -> Subject:
        """Find the models behind the tracks' parameters and give every parameter and leaf module its label."""
        trained = [p for track in tracks for p in track.parameters]
        models = find_models(trained, given)
        named: list[tuple[str, torch.Tensor]] = [pair for model in models for pair in model.parameters()]
        held = {id(p) for p in trained}
        left_out = tuple(p for _, p in named if id(p) not in held)
        known = {id(p) for _, p in named}
        for parameter in trained:
            if id(parameter) not in known:
                known.add(id(parameter))
                taken = [name for name, _ in named]
                named.append((unique(variable_name(parameter) or "tensor", taken), parameter))
        where = writer.positions("parameter", [name for name, _ in named])
        leaves = [(label, module) for model in models for label, module in model.leaves()]
        module_positions = writer.positions("module", [label for label, _ in leaves])
        return cls(
            models=models,
            named=named,
            tracks=tracks,
            positions={id(p): position for (_, p), position in zip(named, where, strict=True)},
            labels={position: name for (name, _), position in zip(named, where, strict=True)},
            sizes={position: p.numel() for (_, p), position in zip(named, where, strict=True)},
            leaves=weakref.WeakKeyDictionary(
                {module: (label, at) for (label, module), at in zip(leaves, module_positions, strict=True)}
            ),
            compiled=any(is_compiled(model.module) for model in models),
            flags=tuple(p.requires_grad for _, p in named),
            left_out=left_out,
        )

    def name_track(self, track: Track) -> None:
        """Name an optimizer as the script does; to be called when it steps, for only then its variable is bound."""
        optimizer = track.optimizer
        own = None if optimizer is None else variable_name(optimizer) or type(optimizer).__name__
        track.name = unique(own or "none", [t.name for t in self.tracks if t is not track])

    def owner_of(self, track: Track) -> int:
        """Index of a track; -1 where it is not one of ours."""
        return next((i for i, t in enumerate(self.tracks) if t is track), -1)

    def chunks(self) -> list[Chunk]:
        """The tracked parameters, cut into pieces that are measured together."""
        rows = []
        for owner, track in enumerate(self.tracks):
            optimizer = track.optimizer
            groups = {} if optimizer is None else _group_of(optimizer)
            own = sorted(track.parameters, key=lambda p: self.positions[id(p)])
            rows += [(owner, p, self.positions[id(p)], groups.get(id(p), 0)) for p in own]
        return chunked(rows)

    def module_labels(self) -> list[str]:
        """Labels of the leaf modules, in the order of their definition."""
        return [label for label, _ in self.leaves.values()]

    def flags_changed(self) -> bool:
        """Whether a parameter was frozen or released, or one left out got its first gradient, since the last call."""
        flags = tuple(p.requires_grad for _, p in self.named)
        reached = self.reached.union(id(p) for p in self.left_out if p.grad is not None)
        changed = flags != self.flags or reached != self.reached
        self.flags, self.reached = flags, reached
        return changed

    def look_behind(self, loss: torch.Tensor) -> bool:
        """Look, once, for parameters of other modules that get gradients of `loss`; whether there are any.

        No optimizer holds them: a decoder that was forgotten, layers kept in a plain list.
        """
        if self.strangers is not None:
            return False
        leaves = [p for p in graph_leaves(loss) if isinstance(p, torch.nn.Parameter) and id(p) not in self.positions]
        behind = {id(p) for p in leaves}
        taken, self.strangers = [model.name for model in self.models], []
        for model in find_models(leaves) if leaves else []:
            name = unique(model.name, taken)
            taken.append(name)
            reached = [(label, p) for label, p in model.module.named_parameters() if id(p) in behind]
            self.strangers += [_facts(f"{name}.{label}", p) | {"unused_gradient": True} for label, p in reached]
        return bool(self.strangers)

    def describe(self, writer: RunWriter, config: Mapping[str, Any]) -> None:
        """Write parameters, modules and configuration as facts of the run."""
        owners = {id(p): track for track in self.tracks for p in track.parameters}
        tied = _tied_names(self.models)
        rows = []
        for name, p in self.named:
            track = owners.get(id(p))
            rows.append(
                _facts(name, p)
                | {
                    "optimizer": None if track is None else track.title,
                    "unused_gradient": id(p) in self.reached if track is None else None,
                    "tied": tied.get(id(p), []),
                }
            )
        writer.meta("parameters", [*rows, *(self.strangers or ())])
        kinds = [
            {"name": label, "kind": type(module).__name__, "mode_effect": mode_effect(module)}
            for module, (label, _) in self.leaves.items()
        ]
        writer.meta("modules", kinds)
        optimizers = [
            {
                "name": track.title,
                "class": type(optimizer).__name__,
                "groups": track.group_count,
            }
            | {"defaults": {k: v for k, v in optimizer.defaults.items() if isinstance(v, _PLAIN)}}
            for track in self.tracks
            if (optimizer := track.optimizer) is not None
        ]
        models = [
            {"name": m.name, "class": type(m.module).__name__, "parameters": sum(p.numel() for _, p in m.parameters())}
            for m in self.models
        ]
        writer.meta("config", {**config, "optimizers": optimizers, "models": models})


def _facts(name: str, p: torch.Tensor) -> dict[str, Any]:
    return {
        "name": name,
        "shape": list(p.shape),
        "dtype": str(p.dtype).removeprefix("torch."),
        "numel": p.numel(),
        "requires_grad": p.requires_grad,
        "optimizer": None,
        "unused_gradient": None,
        "tied": [],
        "module": name.rpartition(".")[0],
    }


def _group_of(optimizer: torch.optim.Optimizer) -> dict[int, int]:
    return {id(p): index for index, group in enumerate(optimizer.param_groups) for p in group["params"]}


def _tied_names(models: Sequence[Model]) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for model in models:
        for name, p in model.module.named_parameters(remove_duplicate=False):
            names.setdefault(id(p), []).append(model.prefix + name)
    return {key: found for key, found in names.items() if len(found) > 1}
