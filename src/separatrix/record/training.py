"""What is known of the training going on: its optimizers and models, the plan of its steps, and where values go."""

from __future__ import annotations

import contextlib
import math
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from separatrix.record.budget import Budget, Stopwatch
from separatrix.record.checkpoints import Checkpoints
from separatrix.record.clock import Clock
from separatrix.record.evaluation import Evaluations
from separatrix.record.guard import Failures, guarded
from separatrix.record.journal import Journal
from separatrix.record.lane import Lane
from separatrix.record.nonfinite import NonfiniteWatch
from separatrix.record.observer import Latest, Observer
from separatrix.record.scaling import LossScaling
from separatrix.record.series import EPOCH
from separatrix.record.subject import Subject
from separatrix.record.thumbnails import Thumbnails
from separatrix.record.tracks import BARE, Term, Track
from separatrix.runs.probe import Moment, Probe
from separatrix.runs.writer import RunWriter

if TYPE_CHECKING:
    from separatrix.record.patches import Patches

_MOST_SKIP_EVENTS = 10
_FREE_DISCOVERIES = 4


class Training:
    """The state that all listeners of a recording share, and what ends a step and prepares the next."""

    def __init__(
        self,
        writer: RunWriter,
        probes: Sequence[Probe],
        *,
        budget: float,
        memory_budget: float,
        checkpoints: str | int | None = None,
        thumbnails: bool = False,
        models: Sequence[torch.nn.Module] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.active = False
        self.budget = Budget(budget)
        self.failures = Failures(writer)
        self.writer = writer
        self.config = dict(config or {})
        self.given = tuple(weakref.ref(model) for model in models)
        self.observer = Observer(writer, probes, self.budget, memory_budget)
        self.checkpoints = None if checkpoints is None else Checkpoints(writer.path, checkpoints)
        self.thumbnails = Thumbnails(writer.path) if thumbnails else None
        self.example_probes = tuple(probe for probe in probes if probe.moment is Moment.EXAMPLE)
        taken = {spec.name for probe in probes for spec in probe.series} | (
            {EPOCH.name} if self.example_probes else set()
        )
        self.journal = Journal(writer, frozenset(taken))
        self.evaluations = Evaluations(self.journal)
        self.nonfinite = NonfiniteWatch(writer)
        self.scaling = LossScaling()
        self.tracks: dict[int, Track] = {}
        self.clock = Clock(writer, self.budget)
        self.lane = Lane(self.clock, self.journal, self.budget, self.observer.sampler, self._finish_quiet_step)
        self.thread: int | None = None
        self.saved_tensors_hooked = False
        self.patches: Patches | None = None
        self._discoveries = 0

    @property
    def step(self) -> int:
        """Steps done so far."""
        return self.clock.step

    @property
    def resting(self) -> int:
        """Steps to come that are counted but not recorded."""
        return self.clock.resting

    def listens(self) -> bool:
        """Whether what this thread does now is to be heard."""
        return (
            self.active
            and not self.observer.snapshots.developing
            and (self.thread is None or self.thread == threading.get_ident())
        )

    def track(self, optimizer: torch.optim.Optimizer) -> Track:
        """The bookkeeping of an optimizer, begun if it is new."""
        key = id(optimizer)
        known = self.tracks.get(key)
        if known is not None and known.optimizer is optimizer:
            return known
        track = Track(optimizer)
        bare = self.tracks.pop(BARE, None)
        if bare is not None:
            track.pending = bare.pending
            self.clock.lose(bare)
            self.observer.hooks.wait_no_more()
        self.tracks[key] = track
        weakref.finalize(optimizer, self.forget, key).atexit = False
        return track

    def forget(self, key: int) -> None:
        """An optimizer has died: let go of what it trained."""
        track = self.tracks.pop(key, None)
        if track is None:
            return
        was_resting = self.clock.resting > 0
        self.clock.lose(track)
        self.lane.lead(None)
        self.observer.detach()
        if was_resting and not self.clock.resting:
            self._hear_again()

    def name(self, track: Track) -> None:
        """Name an optimizer as the script does, now that its variable is bound."""
        subject = self.observer.subject
        if subject is not None:
            subject.name_track(track)
            subject.describe(self.writer, self.config)

    def discover(self) -> None:
        """Find the models behind the parameters of all optimizers."""
        self._discoveries += 1
        with self._starting_up():
            self._find_subject()

    def look_behind(self, loss: torch.Tensor) -> None:
        """At the first loss after a discovery, find the modules besides the models that get gradients of it."""
        subject = self.observer.subject
        if subject is not None and subject.strangers is None:
            with self._starting_up():
                if subject.look_behind(loss):
                    subject.describe(self.writer, self.config)

    @contextlib.contextmanager
    def _starting_up(self) -> Iterator[None]:
        with Stopwatch() as watch:
            yield
        if self._discoveries <= _FREE_DISCOVERIES:
            # Part of start-up, like imports; a script that builds optimizers by the hundred pays for the rest.
            self.budget.charge(-watch.seconds)

    def _find_subject(self) -> None:
        tracks = list(self.tracks.values())
        for track in tracks:
            track.refresh()
        given = [model for reference in self.given if (model := reference()) is not None]
        subject = Subject.find(tracks, given, self.writer)
        self.observer.attach(subject)
        if subject.compiled:
            self.observer.hide_modules(self.step)
        subject.describe(self.writer, self.config)

    def prepare(self) -> None:
        """Plan the next step, and let the lane lead it if it is an ordinary one."""
        self.observer.prepare(self.step + 1)
        track = self.clock.track
        ordinary = (
            track is not None
            and track.optimizer is not None
            and track.name != ""
            and not track.scaled
            and self.observer.plan is None
            and self.observer.subject is not None
            and len(self.tracks) == 1
            and self.checkpoints is None
        )
        self.lane.lead(track if ordinary else None)

    def finish_track(self, track: Track, terms: Sequence[Term], closures: int) -> None:
        """A step of one optimizer is over: write what is known of it, and go on if it was the one that counts."""
        track.in_step = False
        self.observer.commit_carryover(track)
        label = self.clock.label(track)
        self.journal.loss(track, label, terms, closures)
        self.journal.options(track, label)
        self.journal.clipping(track, label)
        if track is self.clock.track:
            self._finish_step(track, len(terms))
        else:
            self.clock.beside(track)

    def _finish_step(self, clock: Track, passes: int) -> None:
        self.clock.step += 1
        self.journal.step_ended(self.step, time.perf_counter(), self.budget.spent)
        if self.observer.plan is not None:
            self._finish_sample(clock, passes)
        if self.checkpoints is not None and self.observer.subject is not None:
            with Stopwatch() as watch:
                self.checkpoints.save_if_due(self.step, self.observer.subject.models, self.writer)
            # The user asked for checkpoints: their time is not taken from what probes may spend.
            self.budget.charge(-watch.seconds)
        if self.clock.may_rest():
            self._rest()
        else:
            self.prepare()

    def _rest(self) -> None:
        self.observer.hooks.disarm()
        self.lane.lead(None)
        if self.patches is not None and not self.observer.compiled:
            # What is compiled may be guarded by what the wrappers are.
            self.patches.rest()

    def wake_up(self) -> None:
        """The last step that was to be left out is over: record the next."""
        self._hear_again()
        self.prepare()
        if math.isfinite(self.budget.ordinary_step):
            # The lane alone would record every step until a sample may be due.
            until = self.step + 1 + self.budget.steps_after(self.clock.rested, self.step)
            self.observer.sampler.asleep_until = min(self.observer.sampler.asleep_until, until)

    def _hear_again(self) -> None:
        for track in self.tracks.values():
            track.drop_losses()
        if self.patches is not None:
            self.patches.wake()
        self.journal.forget_time()

    def _finish_sample(self, clock: Track, passes: int) -> None:
        subject = self.observer.subject
        if subject is None or not clock.parameters:
            return
        latest = self.observer.finish(self.step, clock.parameters[0].device)
        overhead = self.budget.overhead()
        if overhead is not None:
            self.journal.put("overhead", self.step, overhead)
        self.record_norms(latest)
        self.nonfinite.see_gradients(self.observer.bad_gradients(latest), self.step)
        self.observer.snapshots.develop(self.step, clock, subject, passes)
        if subject.flags_changed():
            subject.describe(self.writer, self.config)

    def record_norms(self, latest: Latest) -> None:
        """Write the norm of all gradients together where it was measured and is not told by clipping."""
        for track, step, norm in self.observer.gradient_norms(latest):
            if not track.clipped:
                self.journal.put("gradient_norm", step, norm, track)

    def finish_bare_step(self) -> None:
        """End the step of a loop without an optimizer, if its parameters have changed since its backward pass."""
        track = self.tracks.get(BARE)
        if track is None or not track.pending or not track.moved():
            return
        self.clock.follow(track)
        if not track.name:
            self.name(track)
        terms, _ = track.take_terms()
        if self.observer.plan is not None:
            self.observer.look_at_update(track, self.clock.label(track))
        self.finish_track(track, terms, 0)

    def skipped(self, track: Track) -> None:
        """A step was skipped by a loss scaler."""
        track.drop_step()
        self.observer.drop()
        self.journal.put("skipped_steps", self.step, float(track.skipped))
        if track.skipped <= _MOST_SKIP_EVENTS:
            message = "a step was skipped because scaled gradients were not finite"
            self.writer.event("skipped-step", message, step=self.step, data={"skipped": track.skipped})

    @guarded
    def before_forward(self) -> None:
        """A module is about to run in a loop without an optimizer."""
        if self.listens():
            self.finish_bare_step()

    @guarded
    def _finish_quiet_step(self, track: Track) -> None:
        track.steps += 1
        self.finish_track(track, *track.take_terms())


class Listener:
    """Hears some of what torch does in a training; its guarded methods never raise."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.observer = training.observer
        self.journal = training.journal
        self.clock = training.clock
        self.writer = training.writer
        self.budget = training.budget
        self.failures = training.failures

    @property
    def active(self) -> bool:
        """Whether anything is heard."""
        return self.training.active

    @property
    def step(self) -> int:
        """Steps done so far."""
        return self.training.step
