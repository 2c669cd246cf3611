"""Facts about the loss functions that a training uses: kind, reduction, shapes, range of targets."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from separatrix.record.sightings import same_memory
from separatrix.runs.probe import LossView
from separatrix.runs.writer import RunWriter

_VIEWS = 8
_MOST_KINDS = 8
_MOST_VALUES = 1000
_MOST_ENTRIES = 1 << 16
_BY_HAND = "a difference written by hand"
_UNKNOWN = {
    "reduction": "mean",
    "weighted": False,
    "label_smoothing": 0.0,
    "target_dtype": "",
    "mixed_targets": False,
    "target_range": None,
    "target_values": None,
}
"""What a loss written by hand does not show."""


class LossFacts:
    """Reads the first calls of each kind of loss function in training and writes what they show as `losses`."""

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self._facts: dict[str, dict[str, Any]] = {}
        self._step = 0
        self._calls: list[tuple[str, torch.Tensor, torch.Tensor]] = []

    def note(self, view: LossView, step: int) -> None:
        """Look at a call in a step, unless enough of its kind were seen; `view` is left as it is."""
        known = self._facts.get(view.kind)
        if (known is not None and known["calls"] >= _VIEWS) or (known is None and len(self._facts) >= _MOST_KINDS):
            return
        outputs, targets = view.outputs, view.targets
        facts = {
            "name": view.kind,
            "reduction": str(view.options.get("reduction", "mean")),
            "weighted": view.options.get("weight") is not None or view.options.get("pos_weight") is not None,
            "label_smoothing": float(view.options.get("label_smoothing", 0.0)),
            "outputs": list(outputs.shape),
            "targets": list(targets.shape),
            "target_dtype": str(targets.dtype).removeprefix("torch."),
            "calls": 1 if known is None else known["calls"] + 1,
            "broadcast": _spreads_out(outputs, targets) or (known is not None and known["broadcast"]),
            "mixed_targets": self._meets_others(view, step) or (known is not None and known["mixed_targets"]),
        } | _of_targets(targets, known)
        self._facts[view.kind] = facts if known is None else known | {k: facts[k] for k in facts if k not in _FIRST}
        self._writer.meta("losses", list(self._facts.values()))

    def note_crossed(self, outputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
        """A loss written by hand compares outputs and targets of these shapes each with each."""
        if _BY_HAND in self._facts or len(self._facts) >= _MOST_KINDS:
            return
        shapes = {"outputs": list(outputs), "targets": list(targets)}
        self._facts[_BY_HAND] = {"name": _BY_HAND, **_UNKNOWN, **shapes, "calls": 1, "broadcast": True}
        self._writer.meta("losses", list(self._facts.values()))

    def forget(self) -> None:
        """The step is over: let go of its tensors."""
        self._calls.clear()

    def _meets_others(self, view: LossView, step: int) -> bool:
        """Whether the same outputs met other targets in an earlier call of the kind in this step.

        Calls are kept for the rest of the step, so that no other tensor takes the place of one in memory.
        """
        if step != self._step:
            self._step = step
            self.forget()
        outputs, targets = view.outputs.detach(), view.targets.detach()
        met = any(
            kind == view.kind and same_memory(earlier, outputs) and not same_memory(others, targets)
            for kind, earlier, others in self._calls
        )
        self._calls.append((view.kind, outputs, targets))
        return met


_FIRST = ("name", "reduction", "weighted", "label_smoothing", "outputs", "targets", "target_dtype")


def _spreads_out(outputs: torch.Tensor, targets: torch.Tensor) -> bool:
    """Whether elementwise work on both makes more entries than either has: (n, 1) with (n,) gives (n, n)."""
    if outputs.shape == targets.shape or not targets.is_floating_point():
        return False
    together = 1
    for one, other in itertools.zip_longest(reversed(outputs.shape), reversed(targets.shape), fillvalue=1):
        if 1 not in (one, other) and one != other:
            return False
        together *= int(one if other == 1 else other)
    return together > max(outputs.numel(), targets.numel())


def _of_targets(targets: torch.Tensor, known: dict[str, Any] | None) -> dict[str, Any]:
    """Range of the targets, and which values they take while these are few whole numbers."""
    plain = targets.layout is torch.strided and not targets.is_complex() and not targets.is_quantized
    values = targets.detach().reshape(-1)[:_MOST_ENTRIES] if plain else targets.new_empty(0, dtype=torch.float32)
    if not values.numel() or not bool(torch.isfinite(values).all()):
        return {"target_range": known and known["target_range"], "target_values": known and known["target_values"]}
    low, high = (float(v) for v in torch.aminmax(values.float() if values.is_floating_point() else values))
    before = known["target_range"] if known is not None else None
    range_ = [min(low, before[0]), max(high, before[1])] if before else [low, high]
    if known is not None and known["target_values"] is None:
        return {"target_range": range_, "target_values": None}
    distinct = torch.unique(values).tolist()[: _MOST_VALUES + 1]
    whole = all(float(value).is_integer() for value in distinct)
    seen = (
        sorted({*(known["target_values"] if known is not None else ()), *(int(v) for v in distinct)}) if whole else []
    )
    return {"target_range": range_, "target_values": seen if whole and len(seen) <= _MOST_VALUES else None}
