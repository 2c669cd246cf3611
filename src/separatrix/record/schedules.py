"""Hears torch's learning-rate schedulers step: how long each was made for, and how far it came."""

from __future__ import annotations

import weakref
from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from separatrix.record.guard import guarded
from separatrix.record.training import Listener, Training

_LENGTHS = {
    "CosineAnnealingLR": "T_max",
    "OneCycleLR": "total_steps",
    "LinearLR": "total_iters",
    "ConstantLR": "total_iters",
    "PolynomialLR": "total_iters",
}
"""The attribute that says after how many of its own steps a schedule is through, by class."""
_MOST = 8


class Schedules(Listener):
    """Keeps name, length and steps of each scheduler, and writes them as `schedulers`.

    Those that override `step` without calling torch's own are not heard: none of torch's has a length.
    """

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self._of: weakref.WeakKeyDictionary[LRScheduler, dict[str, Any]] = weakref.WeakKeyDictionary()
        self._facts: list[dict[str, Any]] = []

    @guarded
    def on_step(self, result: None, scheduler: LRScheduler, *args: Any, **kwargs: Any) -> None:
        """A scheduler was made or has stepped; what it did is written when its steps are a power of two."""
        del result, args, kwargs
        facts = self._of.get(scheduler)
        if facts is None:
            if not self.training.listens() or len(self._facts) >= _MOST:
                return
            name = type(scheduler).__name__
            length = getattr(scheduler, _LENGTHS[name], None) if name in _LENGTHS else None
            facts = self._of[scheduler] = {"name": name, "length": None if length is None else int(length)}
            self._facts.append(facts)
        steps = facts["steps"] = int(scheduler.last_epoch)
        if steps & (steps - 1) == 0:
            self._write()

    @guarded
    def conclude(self) -> None:
        """The recording ends."""
        if self._facts:
            self._write()

    def _write(self) -> None:
        self.writer.meta("schedulers", self._facts)
