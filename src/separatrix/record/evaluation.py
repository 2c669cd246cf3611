"""Evaluations between training steps: losses computed without gradients, gathered into one mean a block."""

from __future__ import annotations

import dataclasses
import weakref

import torch

from separatrix.record.journal import Journal
from separatrix.record.losses import class_rows, family
from separatrix.runs.probe import LossView


@dataclasses.dataclass
class Evaluation:
    """Sums over the block of evaluation going on now, after `step`."""

    step: int
    loss: float = 0.0
    weight: float = 0.0
    correct: float = 0.0
    judged: int = 0
    in_eval_mode: bool = True

    def add(self, view: LossView, value: torch.Tensor, in_eval_mode: bool) -> None:
        """Add a batch: `value` is what the loss function returned, under any reduction."""
        rows = class_rows(view)
        weight = _examples(view) if rows is None else _weight(view, rows[1])
        if not weight:
            return
        if view.options.get("reduction", "mean") in ("sum", "none"):
            parts = 1.0 if rows is not None else max(1.0, view.outputs.numel() / weight)
            total = float(value.sum()) / parts
        else:
            total = float(value) * weight
        self.loss += total
        self.weight += weight
        self.in_eval_mode = self.in_eval_mode and in_eval_mode
        if rows is not None:
            scores, classes = rows
            self.correct += float((scores.argmax(dim=1) == classes).sum())
            self.judged += len(classes)
        elif view.kind.startswith("binary_cross_entropy") and view.outputs.shape == view.targets.shape:
            threshold = 0.5 if view.kind == "binary_cross_entropy" else 0.0
            self.correct += float(((view.outputs > threshold) == (view.targets > 0.5)).sum())
            self.judged += view.targets.numel()

    @property
    def mean_loss(self) -> float:
        """Mean loss an example, so far."""
        return self.loss / self.weight

    @property
    def accuracy(self) -> float | None:
        """Share of right answers, so far; None where the loss shows no classes."""
        return self.correct / self.judged if self.judged else None


def _weight(view: LossView, classes: torch.Tensor) -> float:
    """What torch divides by in the mean: the number of targets, or the sum of the weights of their classes."""
    weights = view.options.get("weight")
    return float(len(classes)) if weights is None else float(weights[classes].sum())


def _examples(view: LossView) -> float:
    return float(view.outputs.shape[0]) if view.outputs.dim() else 1.0


class Evaluations:
    """Tells evaluations from training: losses without gradients, of functions that training uses, of other outputs."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._block: Evaluation | None = None
        self.outputs: weakref.ref[torch.Tensor] | None = None
        """What the last loss in training was computed of."""
        self.kinds: set[str] = set()

    def note_training(self, kind: str) -> None:
        """Training uses a loss function of this kind."""
        self.kinds.add(family(kind))

    def note_outputs(self, outputs: object) -> None:
        """A loss in training was computed of these outputs: losses of the same ones later are no evaluation."""
        if isinstance(outputs, torch.Tensor):
            self.outputs = weakref.ref(outputs)

    def hear(self, view: LossView, value: torch.Tensor, step: int, in_eval_mode: bool) -> None:
        """A loss was computed without gradients after `step`: a batch of an evaluation, unless training's own."""
        if self._were_trained_on(view.outputs) or (self.kinds and family(view.kind) not in self.kinds):
            return
        if self._block is None or self._block.step != step:
            self.close()
            self._block = Evaluation(step)
        self._block.add(view, value, in_eval_mode)

    def _were_trained_on(self, outputs: torch.Tensor) -> bool:
        last = None if self.outputs is None else self.outputs()
        if outputs.requires_grad or last is outputs:
            return True
        return last is not None and last.untyped_storage()._cdata == outputs.untyped_storage()._cdata

    def close(self) -> None:
        """Training goes on: write the means of the block that has ended, if there was one."""
        block, self._block = self._block, None
        if block is None or not block.weight:
            return
        self._journal.put("eval_loss", block.step, block.mean_loss)
        self._journal.put("eval_mode", block.step, float(block.in_eval_mode))
        if block.accuracy is not None:
            self._journal.put("eval_accuracy", block.step, block.accuracy)
