"""A recording: listens to the training of this process and turns what happens into series of a run."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from separatrix.record import patches
from separatrix.record.budget import Budget, Stopwatch
from separatrix.record.checkpoints import Checkpoints
from separatrix.record.clock import Clock
from separatrix.record.evaluation import Evaluations
from separatrix.record.guard import Failures, guarded
from separatrix.record.journal import Journal
from separatrix.record.lane import Lane
from separatrix.record.losses import is_plain, view_of_call, views_from_graph
from separatrix.record.nonfinite import NonfiniteWatch
from separatrix.record.observer import Latest, Observer
from separatrix.record.scaling import LossScaling, fused_factor, fused_skip
from separatrix.record.subject import Subject, graph_leaves
from separatrix.record.tracks import Clip, Term, Track
from separatrix.runs.probe import Probe
from separatrix.runs.writer import RunWriter

_MOST_SKIP_EVENTS = 10
_FREE_DISCOVERIES = 4
_BARE = 0


class Session:
    """Listens until it is stopped. One may be active in a process at a time.

    Every public method but the first few is called by a patch or hook on the training thread and never raises.
    """

    def __init__(
        self,
        writer: RunWriter,
        probes: Sequence[Probe],
        *,
        budget: float,
        memory_budget: float,
        checkpoints: str | int | None = None,
        models: Sequence[torch.nn.Module] = (),
        optimizers: Sequence[torch.optim.Optimizer] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.active = False
        self.budget = Budget(budget)
        self.failures = Failures(writer)
        self._writer = writer
        self._config = dict(config or {})
        self._given = tuple(weakref.ref(model) for model in models)
        self._observer = Observer(writer, probes, self.budget, memory_budget)
        self._checkpoints = None if checkpoints is None else Checkpoints(writer.path, checkpoints)
        self._journal = Journal(writer, frozenset(spec.name for probe in probes for spec in probe.series))
        self._evaluations = Evaluations(self._journal)
        self._nonfinite = NonfiniteWatch(writer)
        self._scaling = LossScaling()
        self._patches: patches.Patches | None = None
        self._tracks: dict[int, Track] = {}
        self._clock = Clock(writer, self.budget)
        self.lane = Lane(self._clock, self._journal, self.budget, self._observer.sampler, self._finish_quiet_step)
        self._discoveries = 0
        self._stepping: list[int] = []
        self._thread: int | None = None
        self._saved_tensors_hooked = False
        for optimizer in optimizers:
            self._track(optimizer)

    @property
    def step(self) -> int:
        """Steps done so far."""
        return self._clock.step

    @property
    def resting(self) -> int:
        """Steps to come that are counted but not recorded."""
        return self._clock.resting

    # Lifecycle

    def start(self) -> None:
        """Begin to listen."""
        self.active = True
        self._writer.meta("config", self._config)
        self._patches = patches.install(self)
        if self._tracks or self._given:
            self._begin()

    @guarded
    def _begin(self) -> None:
        self._discover()
        self._prepare()

    def stop(self) -> None:
        """Stop listening: hand over what was gathered, remove every hook and patch, let go of the model."""
        if self._patches is None:
            return
        self._finish()
        self.active = False
        self.lane.lead(None)
        self._observer.detach()
        self._observer.hooks.wait_no_more()
        self._patches.remove()
        self._patches = None
        self._tracks.clear()
        self._clock.track = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Every hook and patch removed for a while; what happens meanwhile is not part of the run."""
        if self._patches is None or not self.active:
            yield
            return
        begin = time.perf_counter()
        self._finish()
        self._observer.hooks.disarm()
        self._observer.hooks.wait_no_more()
        self._patches.remove()
        self.active = False
        try:
            yield
        finally:
            self.active = True
            self._patches = patches.install(self)
            if _BARE in self._tracks:
                self._observer.hooks.wait(self._before_forward)
            self.budget.exclude(time.perf_counter() - begin)
            self._journal.forget_time()
            self._prepare()

    @guarded
    def _finish(self) -> None:
        self._finish_bare_step()
        self._evaluations.close(self.step)
        self._record_norms(self._observer.conclude(self.step))

    def listens(self) -> bool:
        """Whether what this thread does now is to be heard."""
        return self.active and (self._thread is None or self._thread == threading.get_ident())

    def hears_losses(self) -> bool:
        """Whether a loss computed now matters: in a sampled step, in an evaluation, or to learn which ones are used."""
        if not self.active:
            return False
        if (self.resting or self.lane.open) and torch.is_grad_enabled():
            return False
        if _BARE in self._tracks:
            return True
        return not torch.is_grad_enabled() or self._observer.plan is not None or not self._evaluations.kinds

    def note_outputs(self, outputs: object) -> None:
        """A loss in training was computed of these outputs."""
        self._evaluations.note_outputs(outputs)

    @guarded
    def log(self, name: str, value: float) -> None:
        """Record a value of the user's own at the current step."""
        self._journal.log(name, self.step, value)

    # Optimizers

    @guarded
    def on_optimizer(self, result: Any, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
        """An optimizer was constructed: find its model while the first forward is still ahead."""
        del result, args, kwargs
        if not self._stepping and not self.lane.inside_step() and self.listens():
            self._track(optimizer)
            self._discover()
            self._prepare()

    def _track(self, optimizer: torch.optim.Optimizer) -> Track:
        key = id(optimizer)
        known = self._tracks.get(key)
        if known is not None and known.optimizer is optimizer:
            return known
        track = Track(optimizer)
        bare = self._tracks.pop(_BARE, None)
        if bare is not None:
            track.pending = bare.pending
            self._clock.lose(bare)
            self._observer.hooks.wait_no_more()
        self._tracks[key] = track
        weakref.finalize(optimizer, self._forget, key).atexit = False
        return track

    def _forget(self, key: int) -> None:
        track = self._tracks.pop(key, None)
        if track is None:
            return
        self._clock.lose(track)
        self.lane.lead(None)
        self._observer.detach()

    def steps_of(self, optimizer: torch.optim.Optimizer) -> int:
        """Steps seen of this optimizer."""
        track = self._tracks.get(id(optimizer))
        return 0 if track is None else track.steps

    def before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """An optimizer is about to step."""
        if torch.compiler.is_compiling() or self.resting or not self.active:
            return
        if not self.lane.before_step(optimizer, args, kwargs) and not self.lane.inside_step() and self.listens():
            self._before_step(optimizer, args, kwargs)

    @guarded
    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._leave_step(optimizer)
        self._stepping.append(id(optimizer))
        if len(self._stepping) > 1:
            return
        self.budget.start()
        self._thread = threading.get_ident()
        track = self._track(optimizer)
        track.in_step = True
        track.fused_skip = fused_skip(optimizer)
        self._clock.follow(track)
        subject = self._observer.subject
        if subject is None or subject.owner_of(track) < 0 or len(optimizer.param_groups) != track.group_count:
            self._discover()
            self._prepare()
        if not track.name:
            self._name(track)
        if self._observer.plan is not None:
            closure = args[1] if len(args) > 1 else kwargs.get("closure")
            if closure is None:
                self._observer.look_at_gradients(track, self._clock.label(track), fused_factor(optimizer))
            self._observer.keep_before(track)

    def _leave_step(self, optimizer: torch.optim.Optimizer) -> None:
        """A step of `optimizer` is over, with every step inside it; if an exception ended it, this is learnt late."""
        if id(optimizer) in self._stepping:
            del self._stepping[self._stepping.index(id(optimizer)) :]

    def after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """An optimizer has stepped."""
        del args, kwargs
        if torch.compiler.is_compiling():
            return
        if self.resting:
            self._rest(optimizer)
            return
        try:
            done = self.lane.after_step(optimizer)
        except Exception as error:
            self.lane.lead(None)
            self.failures.note("lane", error, self.step)
            return
        if not done and not self.lane.inside_step() and self.listens():
            self._after_step(optimizer)

    @guarded
    def _finish_quiet_step(self, track: Track) -> None:
        track.steps += 1
        self._finish_track(track, *track.take_terms())

    def _rest(self, optimizer: torch.optim.Optimizer) -> None:
        track = self._tracks.get(id(optimizer))
        if track is not None and self.listens() and self._clock.rest(track):
            self._wake_up()

    @guarded
    def _wake_up(self) -> None:
        for track in self._tracks.values():
            track.drop_losses()
        self._prepare()
        self._journal.forget_time()

    @guarded
    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self._leave_step(optimizer)
        track = self._tracks.get(id(optimizer))
        if self._stepping or track is None or not track.in_step:
            return
        track.steps += 1
        if track.fused_skip:
            self._skipped(track)
            return
        terms, closures = track.take_terms()
        if self._observer.plan is not None:
            if closures:
                self._observer.look_at_gradients(track, self._clock.label(track), 1.0)
            self._observer.look_at_update(track, self._clock.label(track))
        self._finish_track(track, terms, closures)

    def _finish_track(self, track: Track, terms: Sequence[Term], closures: int) -> None:
        track.in_step = False
        self._observer.commit_carryover(track)
        label = self._clock.label(track)
        self._journal.loss(track, label, terms, closures)
        self._journal.options(track, label)
        self._journal.clipping(track, label)
        if track is self._clock.track:
            for other in self._tracks.values():
                other.steps_since_clock = 0
            self._finish_step(track)
        else:
            track.steps_since_clock += 1

    def _name(self, track: Track) -> None:
        subject = self._observer.subject
        if subject is not None:
            subject.name_track(track)
            subject.describe(self._writer, self._config)

    def on_zero_grad(self, result: Any, owner: Any, *args: Any, **kwargs: Any) -> None:
        """Gradients were cleared: losses backwarded before do not reach the next step."""
        del result, args, kwargs
        if not self.lane.nothing_pending() and self.listens():
            self._on_zero_grad(owner)

    @guarded
    def _on_zero_grad(self, owner: Any) -> None:
        self._finish_bare_step()
        track = self._tracks.get(id(owner))
        if track is not None:
            track.forget()
        elif isinstance(owner, torch.nn.Module):
            for track in self._tracks.values():
                if track.pending and track.gradients_cleared():
                    track.forget()

    # Backward passes

    @guarded
    def before_backward(self, tensors: Any, gradients: Any) -> tuple[Term, list[tuple[Track, Any]]] | None:
        """A backward pass is about to run; returns what `after_backward` needs to attribute it."""
        loss = tensors if isinstance(tensors, torch.Tensor) else next(iter(tensors), None)
        if loss is None or not is_plain(loss) or torch._C._current_graph_task_id() != -1:
            return None
        self._prepare_backward(loss)
        term = Term(self._value_of(loss, gradients))
        self._see(term, loss)
        for track in self._tracks.values():
            if track.pending and all(p.grad is None for p in track.representatives):
                track.forget()
            self._look_at_carryover(track)
        self._look_for_loss(loss)
        single = len(self._tracks) == 1
        return term, [(t, None if single else t.gradient_marks()) for t in self._tracks.values()]

    def _prepare_backward(self, loss: torch.Tensor) -> None:
        self.budget.start()
        self._thread = threading.get_ident()
        self._evaluations.close(self.step)
        self._finish_bare_step()
        if not self._tracks:
            self._track_bare(graph_leaves(loss))
        if self._observer.subject is None:
            self._discover()
            if _BARE in self._tracks:
                self._prepare()

    def _track_bare(self, parameters: Sequence[torch.Tensor]) -> None:
        self._tracks[_BARE] = Track(None, parameters)
        # That the parameters were changed, and so a step has ended, is to be noticed before the next forward.
        self._observer.hooks.wait(self._before_forward)

    def _look_at_carryover(self, track: Track) -> None:
        begun = track.pending or track.closures or track.first_closure is not None
        if self._observer.plan is not None and not begun:
            factor = self._scaling.factor if track.scaled else 1.0
            self._observer.look_at_carryover(track, self._clock.label(track), factor)

    def _look_for_loss(self, loss: torch.Tensor) -> None:
        if self._observer.wants_loss and not self._saved_tensors_hooked:
            for view in views_from_graph(loss):
                self._evaluations.note_training(view.kind)
                self._observer.look_at_loss(view)

    def after_backward(self, attribution: tuple[Term, list[tuple[Track, Any]]] | None) -> None:
        """The backward pass has run: note the loss with every optimizer whose gradients it changed."""
        if attribution is not None:
            self._after_backward(*attribution)

    @guarded
    def _after_backward(self, term: Term, marks: Sequence[tuple[Track, Any]]) -> None:
        for track, mark in marks:
            if mark is None or track.gradient_marks() != mark:
                track.add(term)
                if track.optimizer is None:
                    self._await_bare_step(track)

    @guarded
    def on_grad(self, outputs: Any, inputs: Any) -> None:
        """torch.autograd.grad is called: for a loss, if it asks for the gradient of trained parameters."""
        loss = outputs if isinstance(outputs, torch.Tensor) else next(iter(outputs), None)
        if loss is None or not is_plain(loss) or loss.numel() != 1 or torch._C._current_graph_task_id() != -1:
            return
        wanted = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
        leaves = [p for p in wanted if isinstance(p, torch.Tensor) and p.is_leaf and p.requires_grad]
        if not self._tracks and any(isinstance(p, torch.nn.Parameter) for p in leaves):
            self._track_bare(leaves)
        for track in list(self._tracks.values()):
            if any(id(p) in track.identities for p in leaves):
                self._prepare_backward(loss)
                self._look_at_carryover(track)
                self._look_for_loss(loss)
                term = Term(self._value_of(loss, None), provisional=True)
                self._see(term, loss)
                track.add(term)

    @guarded
    def after_grad(self, inputs: Any, gradients: Any) -> None:
        """torch.autograd.grad has given `gradients` of `inputs`: a loop without an optimizer steps by them."""
        track = self._tracks.get(_BARE)
        if track is None or not track.pending or torch._C._current_graph_task_id() != -1:
            return
        wanted = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
        pairs = zip(wanted, gradients, strict=False)
        found = {
            id(p): g for p, g in pairs if isinstance(g, torch.Tensor) and id(p) in track.identities and is_plain(g)
        }
        if found:
            track.differentiated |= found
            self._await_bare_step(track)

    def _value_of(self, loss: torch.Tensor, gradients: Any) -> torch.Tensor | float:
        value = self._scaling.original(loss).detach()
        if value.numel() != 1:
            value = (value * gradients).sum() if isinstance(gradients, torch.Tensor) else value.sum()
        return float(value) if value.device.type == "cpu" else value

    def _see(self, term: Term, loss: torch.Tensor) -> None:
        if not isinstance(term.value, torch.Tensor):
            named = () if self._observer.subject is None else self._observer.subject.named
            self._nonfinite.see_loss(term.value, loss, self.step + 1, named, readable=not self._saved_tensors_hooked)

    # Loops without an optimizer: a step is a backward pass followed by a change of the parameters

    def _await_bare_step(self, track: Track) -> None:
        if self._observer.plan is not None:
            self._observer.look_at_gradients(track, self._clock.label(track), 1.0)
            self._observer.keep_before(track)
        track.remember()

    @guarded
    def _before_forward(self) -> None:
        if self.listens():
            self._finish_bare_step()

    def _finish_bare_step(self) -> None:
        track = self._tracks.get(_BARE)
        if track is None or not track.pending or not track.moved():
            return
        self._clock.follow(track)
        if not track.name:
            self._name(track)
        terms, _ = track.take_terms()
        if self._observer.plan is not None:
            self._observer.look_at_update(track, self._clock.label(track))
        self._finish_track(track, terms, 0)

    # Losses, clipping, loss scaling, compilation

    @guarded
    def on_loss(self, kind: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """A watched loss function was computed."""
        if not self.listens() or torch._C._current_graph_task_id() != -1 or not is_plain(result):
            return
        view = view_of_call(kind, args, kwargs)
        if view is None:
            return
        self._finish_bare_step()
        if not torch.is_grad_enabled():
            self.lane.close()
            subject = self._observer.subject
            training = subject is not None and any(model.module.training for model in subject.models)
            self._evaluations.hear(view, result, in_eval_mode=not training)
        elif result.requires_grad:
            self._evaluations.note_outputs(view.outputs)
            self._evaluations.note_training(kind)
            self._observer.look_at_loss(view)

    @guarded
    def on_clip(self, parameters: Any, max_norm: float, total_norm: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients are about to be clipped to `max_norm`; `total_norm` is their norm."""
        del args, kwargs
        if not self.listens():
            return
        first = parameters[0] if isinstance(parameters, list | tuple) and parameters else None
        for track in self._tracks.values():
            if first is None or id(first) in track.identities:
                factor = self._scaling.factor if track.scaled and not track.unscaled else 1.0
                track.clips.append(Clip(total_norm.detach(), float(max_norm), factor))

    @guarded
    def on_scale(self, result: Any, scaler: Any, outputs: Any) -> None:
        """A loss was multiplied by a loss scale."""
        if not self.listens():
            return
        self.lane.close()
        self._scaling.scaled(result, scaler, outputs)
        for track in self._tracks.values():
            track.scaled, track.unscaled = True, False

    @guarded
    def on_unscale(self, result: Any, scaler: Any, optimizer: torch.optim.Optimizer) -> None:
        """Gradients were divided by the loss scale."""
        del result, scaler
        track = self._tracks.get(id(optimizer))
        if track is not None:
            track.unscaled = True

    @guarded
    def after_scaler_step(self, optimizer: torch.optim.Optimizer, done: int) -> None:
        """A loss scaler was asked to step: if the optimizer did not, the step was skipped."""
        track = self._tracks.get(id(optimizer))
        if track is not None and self.listens() and track.steps == done:
            self._skipped(track)

    def _skipped(self, track: Track) -> None:
        track.drop_step()
        self._observer.drop()
        self._journal.put("skipped_steps", self.step, float(track.skipped))
        if track.skipped <= _MOST_SKIP_EVENTS:
            message = "a step was skipped because scaled gradients were not finite"
            self._writer.event("skipped-step", message, step=self.step, data={"skipped": track.skipped})

    @guarded
    def on_scaler_update(self, result: Any, scaler: Any, *args: Any, **kwargs: Any) -> None:
        """The loss scale may have changed; asking an accelerator for it is left to sampled steps."""
        del result, args, kwargs
        if self.listens() and (scaler._device == "cpu" or self._observer.plan is not None):
            factor = self._scaling.changed_factor()
            if factor is not None:
                self._journal.put("loss_scale", self.step, factor)

    def on_saved_tensors_hooks(self, *args: Any) -> None:
        """Saved tensors may be recomputed on access: graphs must not be read from now on."""
        del args
        self._saved_tensors_hooked = True

    @guarded
    def on_compile(self, *args: Any, **kwargs: Any) -> None:
        """Something is being compiled."""
        del args, kwargs
        self._observer.hide_modules(self.step)

    # Recording and going on to the next step

    def _finish_step(self, clock: Track) -> None:
        self._clock.step += 1
        self._journal.step_ended(self.step, time.perf_counter(), self.budget.spent)
        if self._observer.plan is not None:
            self._finish_sample(clock)
        if self._checkpoints is not None and self._observer.subject is not None:
            with Stopwatch() as watch:
                self._checkpoints.save_if_due(self.step, self._observer.subject.models, self._writer)
            # The user asked for checkpoints: their time is not taken from what probes may spend.
            self.budget.charge(-watch.seconds)
        if self._clock.may_rest():
            self._observer.hooks.disarm()
        else:
            self._prepare()

    def _prepare(self) -> None:
        """Plan the next step, and let the lane lead it if it is an ordinary one."""
        self._observer.prepare(self.step + 1)
        track = self._clock.track
        ordinary = (
            track is not None
            and track.optimizer is not None
            and track.name != ""
            and not track.scaled
            and self._observer.plan is None
            and self._observer.subject is not None
            and len(self._tracks) == 1
            and self._checkpoints is None
        )
        self.lane.lead(track if ordinary else None)

    def _finish_sample(self, clock: Track) -> None:
        subject = self._observer.subject
        if subject is None or not clock.parameters:
            return
        latest = self._observer.finish(self.step, clock.parameters[0].device)
        overhead = self.budget.overhead()
        if overhead is not None:
            self._journal.put("overhead", self.step, overhead)
        self._record_norms(latest)
        self._nonfinite.see_gradients(self._observer.bad_gradients(latest), self.step)
        if subject.flags_changed():
            subject.describe(self._writer, self._config)

    def _record_norms(self, latest: Latest) -> None:
        for track, step, norm in self._observer.gradient_norms(latest):
            if not track.clipped:
                self._journal.put("gradient_norm", step, norm, track)

    def _discover(self) -> None:
        with Stopwatch() as watch:
            self._find_subject()
        self._discoveries += 1
        if self._discoveries <= _FREE_DISCOVERIES:
            # Part of start-up, like imports; a script that builds optimizers by the hundred pays for the rest.
            self.budget.charge(-watch.seconds)

    def _find_subject(self) -> None:
        tracks = list(self._tracks.values())
        for track in tracks:
            track.refresh()
        given = [model for reference in self._given if (model := reference()) is not None]
        subject = Subject.find(tracks, given, self._writer)
        self._observer.attach(subject)
        if subject.compiled:
            self._observer.hide_modules(self.step)
        subject.describe(self._writer, self._config)
