"""Checkpoints of the model's parameters and buffers during a recording, when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from separatrix.record.ownership import Model
from separatrix.runs.errors import MissingExtraError, UsageError
from separatrix.runs.writer import RunWriter

_GROWTH = 1.3


class Checkpoints:
    """Saves `checkpoints/step-NNNNNNNN.safetensors` every `rule` steps, or at steps spaced evenly in log(step)."""

    def __init__(self, run: Path, rule: str | int) -> None:
        if rule != "log" and not (isinstance(rule, int) and rule > 0):
            raise UsageError(f"checkpoints must be 'log' or a positive number of steps, not {rule!r}")
        try:
            import safetensors.torch  # noqa: F401
        except ImportError:
            raise MissingExtraError("checkpoints need safetensors: pip install safetensors") from None
        self._folder = run / "checkpoints"
        self._rule = rule
        self._next = 1 if rule == "log" else int(rule)

    def save_if_due(self, step: int, models: Sequence[Model], writer: RunWriter) -> None:
        """Save when `step` is due; a failure becomes an event and ends the saving, not the training."""
        if step < self._next or writer.failure is not None:
            return
        self._next = max(step + 1, int(step * _GROWTH)) if self._rule == "log" else step + int(self._rule)
        tensors: dict[str, torch.Tensor] = {}
        for model in models:
            tensors |= {name: p.detach() for name, p in model.parameters()}
            tensors |= {model.prefix + name: b.detach() for name, b in model.module.named_buffers()}
        from safetensors.torch import save_file

        try:
            self._folder.mkdir(exist_ok=True)
            path = self._folder / f"step-{step:08d}.safetensors"
            partial = path.with_suffix(".partial")
            save_file({name: t.contiguous().clone() for name, t in tensors.items()}, partial)
            partial.rename(path)
        except Exception as error:
            self._next = 1 << 62
            message = f"checkpoints ended: {type(error).__name__}: {error}"
            writer.event("checkpoints-ended", message, step=step, severity="warning")
        else:
            writer.event("checkpoint", f"saved {path.name}", step=step, data={"file": f"checkpoints/{path.name}"})
