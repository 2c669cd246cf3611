"""The short way through an ordinary step: nothing to sample, one optimizer, one backward pass, a loss on the CPU.

Most steps are of this kind, and what is done at each of them bounds how cheap a recording can be: between two steps of
a training the caches are cold, so that every function called counts. Whatever is unusual about a step makes the lane
decline it, before anything was noted; it then takes the long way through the session.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from separatrix.record.budget import Budget
from separatrix.record.clock import Clock
from separatrix.record.journal import Journal
from separatrix.record.sampler import Sampler
from separatrix.record.tracks import Term, Track

_UNSEEN = 2.0
"""Time that listening to an ordinary step takes besides what is measured, as a multiple of that: torch's calls of the
hooks, the wrappers before the clock is read, and the caches that all of it displaces (benchmarks/overhead.py)."""

_SLOWLY = 1.1
"""Factor by which the time that an ordinary step is taken to need rises at most: an interrupted one says little."""


class Lane:
    """Hears the backward pass and the step of one track while it is open; a method says whether it has dealt with it.

    `finish(track)` ends a step in the long way: when the next one may be sampled, or when something was unusual.
    """

    def __init__(
        self, clock: Clock, journal: Journal, budget: Budget, sampler: Sampler, finish: Callable[[Track], None]
    ) -> None:
        self.open = False
        self.idle = False
        """Open, and no loss waits for the next step: clearing gradients changes nothing."""
        self._clock = clock
        self._journal = journal
        self._budget = budget
        self._sampler = sampler
        self._finish = finish
        self._track: Track | None = None
        self._led = 0
        self._optimizer: torch.optim.Optimizer | None = None
        self._thread = 0
        self._heard = 0.0
        """Seconds that the last backward pass took to hear."""

    def lead(self, track: Track | None) -> None:
        """Open for the next steps of `track`, or close where there is none."""
        self.open = track is not None
        self.idle = track is not None and not track.pending
        self._track = track
        self._led = 0 if track is None else id(track.optimizer)
        self._optimizer = None
        self._thread = threading.get_ident()

    def close(self) -> None:
        """Something unusual has begun: decline what comes, and end the step going on in the long way."""
        self.open = self.idle = False

    def inside_step(self) -> bool:
        """Whether the optimizer that the lane leads is in its step: another one that steps now is inside it."""
        return self._optimizer is not None

    def backward(self, loss: Any) -> bool:
        """A backward pass is about to run."""
        if not self.idle:
            return False
        begin = time.perf_counter()
        track = self._track
        if (
            track is None
            or track.in_step
            or type(loss) is not torch.Tensor
            or loss.ndim
            or not loss.is_cpu
            or threading.get_ident() != self._thread
            or torch._C._current_graph_task_id() != -1
            or torch._C._len_torch_function_stack()
            or torch._C._len_torch_dispatch_stack()
        ):
            return False
        value = loss.item()
        if not math.isfinite(value):
            return False
        self.idle = False
        track.pending.append(Term(value))
        self._heard = (1.0 + _UNSEEN) * (time.perf_counter() - begin)
        self._budget.spent += self._heard
        return True

    def before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> bool:
        """An optimizer is about to step."""
        if not self.open or id(optimizer) != self._led:
            return False
        track = self._track
        if (
            track is None
            or (track.in_step and self._optimizer is not optimizer)
            or len(args) > 1
            or kwargs
            or len(optimizer.param_groups) != track.group_count
            or threading.get_ident() != self._thread
        ):
            return False
        track.in_step = True
        self._optimizer = optimizer
        return True

    def after_step(self, optimizer: torch.optim.Optimizer) -> bool:
        """An optimizer has stepped."""
        if self._optimizer is not optimizer:
            return False
        begin = time.perf_counter()
        self._optimizer = None
        track = self._track
        assert track is not None
        step = self._clock.step + 1
        pending = track.pending
        if (
            not self.open
            or len(pending) != 1
            or pending[0].provisional
            or track.in_closure
            or track.first_closure is not None
            or step + 1 >= self._sampler.asleep_until
        ):
            self._finish(track)
            return True
        track.in_step = False
        track.pending = []
        track.steps += 1
        self.idle = True
        self._clock.step = step
        budget = self._budget
        self._journal.ordinary_step(track, step, float(pending[0].value), begin, budget.spent)
        seconds = (1.0 + _UNSEEN) * (time.perf_counter() - begin)
        budget.spent += seconds
        budget.ordinary_step = min(seconds + self._heard, _SLOWLY * budget.ordinary_step)
        return True
