"""How much of the gradient reaches back through time, in networks that use a module again and again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from separatrix.record.isolation import overridable
from separatrix.record.snapshot import Snapshot
from separatrix.runs.probe import Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec

FEWEST_TIMES = 9
"""Times below which a sequence has no thirds worth comparing."""


def ratio_of_thirds(sizes: torch.Tensor) -> torch.Tensor:
    """RMS of the first third of sizes, shape (times,), over that of the last; NaN where the last third is zero."""
    third = len(sizes) // 3
    first, last = sizes[:third].square().mean().sqrt(), sizes[-third:].square().mean().sqrt()
    return torch.where(last > 0, first / last, torch.nan)


class _Hearing:
    """Keeps, by module, what stands for the times of a forward: a whole sequence, or one tensor a call."""

    def __init__(self) -> None:
        self.sequences: dict[str, tuple[torch.Tensor, int]] = {}
        self.calls: dict[str, list[torch.Tensor]] = {}

    def before(self, name: str, module: nn.RNNBase, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """A recurrent module of torch is about to read a sequence, which must need a gradient."""
        x = arguments[0] if arguments else None
        if not isinstance(x, torch.Tensor) or not x.is_floating_point() or name in self.sequences:
            return None
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        self.sequences[name] = x, 1 if module.batch_first and x.dim() == 3 else 0
        return x, *arguments[1:]

    def after(self, name: str, result: Any) -> None:
        """Another module has run."""
        result = result[0] if isinstance(result, tuple) and result else result
        if isinstance(result, torch.Tensor) and result.requires_grad:
            self.calls.setdefault(name, []).append(result)


@contextlib.contextmanager
def _listening(model: nn.Module) -> Iterator[_Hearing]:
    heard, handles = _Hearing(), []
    try:
        for name, module in model.named_modules():
            if isinstance(module, nn.RNNBase):
                handles.append(module.register_forward_pre_hook(lambda m, args, name=name: heard.before(name, m, args)))
            elif next(module.children(), None) is None and next(module.parameters(recurse=False), None) is not None:
                handles.append(module.register_forward_hook(lambda m, args, y, name=name: heard.after(name, y)))
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def measure_recurrence(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """By module: RMS of the loss's gradient in the first third of the times over that in the last.

    Of torch's RNN, GRU and LSTM it is the gradient by the sequence that they read; of other modules with parameters
    and no children that are called nine times or more in a forward, that by each call's output. A model without either
    is left alone from then on.
    """
    if state.get("without"):
        return
    with overridable(), torch.enable_grad(), _listening(snapshot.model) as heard:
        loss = snapshot.loss()
    calls = {name: tensors for name, tensors in heard.calls.items() if len(tensors) >= FEWEST_TIMES}
    sequences = {name: (x, dim) for name, (x, dim) in heard.sequences.items() if x.shape[dim] >= FEWEST_TIMES}
    wanted = [x for x, _ in sequences.values()] + [tensor for tensors in calls.values() for tensor in tensors]
    state["without"] = not wanted
    if not wanted:
        return
    found = iter(torch.autograd.grad(loss, wanted, allow_unused=True))
    gradients = [torch.zeros_like(x) if g is None else g for x, g in zip(wanted, found, strict=True)]
    for place, (name, (_, dim)) in enumerate(sequences.items()):
        by_time = gradients[place].movedim(dim, 0).flatten(1)
        yield _reading(snapshot, name, torch.linalg.vector_norm(by_time.double(), dim=1))
    place = len(sequences)
    for name, tensors in calls.items():
        own = gradients[place : place + len(tensors)]
        place += len(tensors)
        yield _reading(snapshot, name, torch.stack([torch.linalg.vector_norm(g.double()) for g in own]))


def _reading(snapshot: Snapshot, name: str, sizes: torch.Tensor) -> Reading:
    label = snapshot.prefix + (name or type(snapshot.model).__name__)
    return Reading("early_gradient_ratio", ratio_of_thirds(sizes), at={"module": label})


recurrence = Probe(
    name="recurrence",
    moment=Moment.SNAPSHOT,
    series=(
        SeriesSpec(
            "early_gradient_ratio",
            description="RMS of the gradient of the first third of the times over that of the last third",
            source="Pascanu et al. 2013, arXiv:1211.5063, section 2.2",
        ),
    ),
    measure=measure_recurrence,
    description="how much of the gradient reaches the early times of a sequence",
    priority=48,
    cost=1.5,
    source="Pascanu et al. 2013, arXiv:1211.5063",
)
