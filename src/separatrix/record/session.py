"""A recording's ears: installed while it goes on, they turn what the training of this process does into series."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.compiler import is_compiling

from separatrix.record.backwards import Backwards
from separatrix.record.calls import Calls
from separatrix.record.examples import Examples
from separatrix.record.guard import guarded
from separatrix.record.listening import install
from separatrix.record.scaling import fused_factor, fused_skip
from separatrix.record.schedules import Schedules
from separatrix.record.tracks import BARE
from separatrix.record.training import Listener, Training

_RESTING = 1.0
"""Time that all wrappers and hooks take of a step that is left out, over that of counting the last one the long way."""


class Session(Listener):
    """Listens until it is stopped, and hears optimizers itself. One may be active in a process at a time.

    Every public method but the first few is called by a patch or hook on the training thread and never raises.
    """

    def __init__(self, training: Training, optimizers: Sequence[torch.optim.Optimizer] = ()) -> None:
        super().__init__(training)
        self.backwards = Backwards(training)
        self.calls = Calls(training)
        self.schedules = Schedules(training)
        self.examples = Examples(training, training.example_probes) if training.example_probes else None
        self.lane = training.lane
        self._stepping: list[int] = []
        self._unfollowed_said = False
        for optimizer in optimizers:
            training.track(optimizer)

    def start(self) -> None:
        """Begin to listen."""
        self.training.active = True
        self.writer.meta("config", self.training.config)
        self.training.patches = install(self)
        if self.examples is not None:
            self.examples.start()
        if self.training.tracks or self.training.given:
            self._begin()

    def fall_silent(self) -> None:
        """Listen no more, and touch nothing: the file is lost, or belongs to the parent process."""
        self.training.active = False

    @guarded
    def _begin(self) -> None:
        self.training.discover()
        self.training.prepare()

    def stop(self) -> None:
        """Stop listening: hand over what was gathered, remove every hook and patch, let go of the model."""
        if self.training.patches is None:
            return
        self._finish()
        if self.examples is not None:
            self.examples.conclude()
            self.examples.stop()
        self.training.active = False
        self.lane.lead(None)
        self.observer.detach()
        self.observer.hooks.wait_no_more()
        self.training.patches.remove()
        self.training.patches = None
        self.training.tracks.clear()
        self.clock.track = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Every hook and patch removed for a while; what happens meanwhile is not part of the run."""
        if self.training.patches is None or not self.training.active:
            yield
            return
        begin = time.perf_counter()
        self._finish()
        if self.examples is not None:
            self.examples.stop()
        self.observer.hooks.disarm()
        self.observer.hooks.wait_no_more()
        self.training.patches.remove()
        self.training.active = False
        try:
            yield
        finally:
            self.training.active = True
            self.training.patches = install(self)
            if self.examples is not None:
                self.examples.start()
            if BARE in self.training.tracks:
                self.observer.hooks.wait(self.training.before_forward)
            self.budget.exclude(time.perf_counter() - begin)
            self.journal.forget_time()
            if not self.clock.resting:
                self.training.prepare()

    @guarded
    def _finish(self) -> None:
        self.training.finish_bare_step()
        self.training.evaluations.close()
        self.schedules.conclude()
        self.training.record_norms(self.observer.conclude(self.step))

    @guarded
    def log(self, name: str, value: float) -> None:
        """Record a value of the user's own at the current step."""
        self.journal.log(name, self.step, value)

    @guarded
    def on_optimizer(self, result: Any, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
        """An optimizer was constructed: find its model while the first forward is still ahead."""
        del result, args, kwargs
        if not self._stepping and not self.lane.inside_step() and self.training.listens():
            self.training.track(optimizer)
            if not self.clock.resting:
                self.training.discover()
                self.training.prepare()

    @guarded
    def say_unfollowed(self) -> None:
        """Ids of examples were given, and no probe reads anything of examples."""
        if not self._unfollowed_said:
            self._unfollowed_said = True
            message = "ids of examples were given, but no probe of examples was chosen: add probes='default,examples'"
            self.writer.event("unseen", message, step=self.step, severity="warning")

    def steps_of(self, optimizer: torch.optim.Optimizer) -> int:
        """Steps seen of this optimizer."""
        track = self.training.tracks.get(id(optimizer))
        return 0 if track is None else track.steps

    def before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """An optimizer is about to step."""
        if is_compiling() or self.clock.resting or self.lane.before_step(optimizer, args, kwargs):
            return
        if not self.lane.inside_step() and self.training.listens():
            self._before_step(optimizer, args, kwargs)

    @guarded
    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._leave_step(optimizer)
        self._stepping.append(id(optimizer))
        if len(self._stepping) > 1:
            return
        self.budget.start()
        self.training.thread = threading.get_ident()
        track = self.training.track(optimizer)
        track.in_step = True
        track.fused_skip = fused_skip(optimizer)
        self.clock.follow(track)
        subject = self.observer.subject
        if subject is None or subject.owner_of(track) < 0 or len(optimizer.param_groups) != track.group_count:
            self.training.discover()
            self.training.prepare()
            if len(args) < 2 and "closure" not in kwargs:
                self.observer.snapshots.leave_out()
        if not track.name:
            self.training.name(track)
        if self.observer.plan is not None:
            closure = args[1] if len(args) > 1 else kwargs.get("closure")
            if closure is None:
                self.observer.look_at_gradients(track, self.clock.label(track), fused_factor(optimizer))
            self.observer.keep_before(track)

    def _leave_step(self, optimizer: torch.optim.Optimizer) -> None:
        """A step of `optimizer` is over, with every step inside it; if an exception ended it, this is learnt late."""
        if id(optimizer) in self._stepping:
            del self._stepping[self._stepping.index(id(optimizer)) :]

    def after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """An optimizer has stepped."""
        if self.clock.resting:
            if not (self.clock.passes(optimizer) or is_compiling()):
                self._rest(optimizer)
            return
        del args, kwargs
        if is_compiling():
            return
        try:
            if self.lane.after_step(optimizer):
                return
        except Exception as error:
            self.lane.lead(None)
            self.training.failures.note("lane", error, self.step)
            return
        if not self.lane.inside_step() and self.training.listens():
            self._after_step(optimizer)

    def _rest(self, optimizer: torch.optim.Optimizer) -> None:
        begin = time.perf_counter()
        track = self.training.tracks.get(id(optimizer))
        if track is not None and self.training.listens() and self.clock.rest(track):
            self.budget.charge(self.clock.rested * _RESTING * (time.perf_counter() - begin))
            self._wake_up()

    @guarded
    def _wake_up(self) -> None:
        self.training.wake_up()

    @guarded
    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self._leave_step(optimizer)
        track = self.training.tracks.get(id(optimizer))
        if self._stepping or track is None or not track.in_step:
            return
        track.steps += 1
        if track.fused_skip:
            self.training.skipped(track)
            return
        terms, closures = track.take_terms()
        if self.observer.plan is not None:
            if closures:
                self.observer.look_at_gradients(track, self.clock.label(track), 1.0)
            self.observer.look_at_update(track, self.clock.label(track))
        self.training.finish_track(track, terms, closures)

    def on_zero_grad(self, owner: Any) -> None:
        """Gradients were cleared: losses backwarded before do not reach the next step."""
        if self.training.listens():
            self._on_zero_grad(owner)

    @guarded
    def _on_zero_grad(self, owner: Any) -> None:
        self.training.finish_bare_step()
        track = self.training.tracks.get(id(owner))
        if track is not None:
            track.forget()
        elif isinstance(owner, torch.nn.Module):
            for track in self.training.tracks.values():
                if track.pending and track.gradients_cleared():
                    track.forget()
