"""Looks at a training through probes on sampled steps: parameters before and after a step, losses, modules, inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from separatrix.record.budget import Budget, Stopwatch
from separatrix.record.hooks import LeafHooks
from separatrix.record.isolation import in_words
from separatrix.record.loss_facts import LossFacts
from separatrix.record.process import resident_bytes
from separatrix.record.sampler import Plan, Sampler
from separatrix.record.snapshots import Snapshots
from separatrix.record.subject import Subject
from separatrix.record.tracks import Track
from separatrix.runs.probe import InputView, LossView, ModuleView, Moment, ParameterView, Probe, StepView, UpdateView
from separatrix.runs.writer import RunWriter

_LOSS_VIEWS_A_STEP = 16
_SAMPLES_UNTIL_MISSED = 5
_ASSUMED_RESIDENT_BYTES = 1 << 29

Latest = Mapping[tuple[str, int], tuple[np.ndarray, np.ndarray]]
"""Positions and values of labelled series, by name and step."""


class Observer:
    """Holds the plan of the step going on and shows each moment of it to the probes.

    Work on parameters and losses happens inside the session's own stopwatch; what hooks call here charges the budget.
    """

    def __init__(self, writer: RunWriter, probes: Sequence[Probe], budget: Budget, memory_budget: float) -> None:
        self.sampler = Sampler(writer, probes, budget)
        self.snapshots = Snapshots(writer, probes, budget, memory_budget)
        self.hooks = LeafHooks(self._look_at_module, self._look_at_inputs, self._hook_failed, self.snapshots)
        self.plan: Plan | None = None
        self.subject: Subject | None = None
        self.compiled = False
        self.on_attached: Callable[[], None] | None = None
        """Called when models are known, or others than before."""
        self.on_compiled: Callable[[], None] | None = None
        """Called when hooks on modules must stay away from now on."""
        self._writer = writer
        self._budget = budget
        self._memory_budget = memory_budget
        self._before: dict[int, list[torch.Tensor]] = {}
        self._loss_views = 0
        self._step = 1
        self._hook_failures = 0
        self._samples = 0
        self._seen: set[Moment] = set()
        self._loss_facts = LossFacts(writer)

    def attach(self, subject: Subject) -> None:
        """Look at another set of models and parameters from now on."""
        self._let_go()
        self.subject = subject
        self.sampler.measure(subject.chunks(), subject.module_labels())
        if self.on_attached is not None:
            self.on_attached()

    def detach(self) -> None:
        """Let go of every parameter and module."""
        self._let_go()
        self.snapshots.forget()

    def _let_go(self) -> None:
        self.hooks.disarm()
        self.subject, self.plan = None, None
        self.sampler.measure([], [])
        self.drop()

    def drop(self) -> None:
        """Forget what was read of a step that did not happen."""
        self.sampler.drop()
        self._before.clear()

    def prepare(self, step: int) -> None:
        """Plan `step` and arm the hooks if modules are to be seen in it."""
        self._step = step
        self._loss_views = 0
        self._loss_facts.forget()
        self.plan = None if self.subject is None else self.sampler.plan(step)
        if self.subject is not None and self.snapshots.plan(step):
            self.plan = self.plan or Plan((), frozenset())
        self.sampler.asleep_until = min(self.sampler.asleep_until, self.snapshots.asleep_until(step))
        if self.plan is None or self.subject is None:
            self.hooks.disarm()
        elif self.compiled:
            self.hooks.arm_without_hooks(self.subject)
        else:
            self.hooks.arm(self.subject, self.plan.modules)

    def hide_modules(self, step: int) -> None:
        """Something is compiled: hooks on modules would break its graph, so they stay away from now on."""
        if self.compiled:
            return
        self.compiled = True
        self.hooks.disarm()
        self.snapshots.begin_compiled()
        if self.on_compiled is not None:
            self.on_compiled()
        series = self.sampler.series_of(Moment.MODULE, Moment.INPUT)
        message = "torch.compile hides the inside of the model: series of modules and inputs are not seen"
        self._writer.event("unseen", message, step=step, data={"series": series, "because": "torch.compile"})

    def _planned(self, track: Track) -> list[int]:
        if self.plan is None or self.subject is None:
            return []
        owner = self.subject.owner_of(track)
        return [i for i in self.plan.chunks if self.sampler.chunks[i].owner == owner]

    def look_at_gradients(self, track: Track, step: int, scale: float) -> None:
        """Show the gradients of the planned parameters; they carry the factor `scale`."""
        for index in self._planned(track):
            chunk = self.sampler.chunks[index]
            with Stopwatch() as watch:
                if track.optimizer is None:
                    # Which backward pass is the last before a step is only known afterwards.
                    self.sampler.forget(Moment.GRADIENT, chunk.positions)
                view = ParameterView(chunk.parameters, track.gradients(chunk.parameters), scale)
                self.sampler.look(Moment.GRADIENT, view, step, chunk.positions)
            self.sampler.add_cost(f"chunk:{index}", watch.seconds)

    def look_at_carryover(self, track: Track, step: int, scale: float) -> None:
        """Show what the gradients hold before a backward that may be the first of a step.

        Only the last look before `commit_carryover` counts: this backward may miss the track, or be cleared away.
        """
        chunks = [self.sampler.chunks[index] for index in self._planned(track)]
        views = (
            (ParameterView(c.parameters, [p.grad for p in c.parameters], scale), step, c.positions) for c in chunks
        )
        self.sampler.look_again(track, Moment.CARRYOVER, views)

    def commit_carryover(self, track: Track) -> None:
        """The optimizer has stepped with what was backwarded since the last look."""
        self.sampler.commit(track)

    def keep_before(self, track: Track) -> None:
        """Copy the planned parameters, as far as the memory budget allows, to compare with after the step."""
        if not self.sampler.wants(Moment.UPDATE):
            return
        allowed = self._memory_budget * (resident_bytes() or _ASSUMED_RESIDENT_BYTES)
        for index in self._planned(track):
            chunk = self.sampler.chunks[index]
            allowed -= sum(p.numel() * p.element_size() for p in chunk.parameters)
            if allowed < 0.0 and self._before:
                break
            with Stopwatch() as watch:
                self._before[index] = [p.detach().clone() for p in chunk.parameters]
            self.sampler.add_cost(f"chunk:{index}", watch.seconds)

    def look_at_update(self, track: Track, step: int) -> None:
        """Show the planned parameters after the step next to the copies from before it."""
        optimizer = track.optimizer
        for index in self._planned(track):
            before = self._before.pop(index, None)
            if before is None:
                continue
            chunk = self.sampler.chunks[index]
            states = [{} if optimizer is None else optimizer.state.get(p, {}) for p in chunk.parameters]
            groups = [{} if optimizer is None else optimizer.param_groups[g] for g in chunk.groups]
            with Stopwatch() as watch:
                view = UpdateView([p.detach() for p in chunk.parameters], before, states, groups)
                self.sampler.look(Moment.UPDATE, view, step, chunk.positions)
            self.sampler.add_cost(f"chunk:{index}", watch.seconds)

    @property
    def wants_loss(self) -> bool:
        """Whether the step going on is sampled and no loss function was seen in it yet."""
        return self.plan is not None and self._loss_views == 0

    def look_at_loss(self, view: LossView) -> None:
        """Show the outputs and targets of a loss function."""
        if self.plan is None or self._loss_views >= _LOSS_VIEWS_A_STEP:
            return
        self._loss_views += 1
        self._seen.add(Moment.LOSS)
        with Stopwatch() as watch:
            self._loss_facts.note(view, self._step)
            self.sampler.look(Moment.LOSS, view, self._step)
        self.sampler.add_cost("loss", watch.seconds)

    def look_at_crossed(self, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
        """Note the shapes of outputs and targets that a loss written by hand compares each with each."""
        self._loss_facts.note_crossed(*shapes)

    def _look_at_module(self, label: str, position: int, view: ModuleView) -> None:
        self._seen.add(Moment.MODULE)
        with Stopwatch(self._budget) as watch:
            self.sampler.look(Moment.MODULE, view, self._step, (position,))
        self.sampler.add_cost(f"module:{label}", watch.seconds)

    def _look_at_inputs(self, tensors: Sequence[torch.Tensor], training: bool) -> None:
        self._seen.add(Moment.INPUT)
        with Stopwatch(self._budget) as watch:
            self.sampler.look(Moment.INPUT, InputView(tensors, training), self._step)
        self.sampler.add_cost("input", watch.seconds)

    def _hook_failed(self, name: str, error: Exception) -> None:
        self._hook_failures += 1
        if self._hook_failures >= 3:
            self.compiled = True
            self.hooks.disarm()
            message = f"the recorder's {name} were switched off after 3 failures ({in_words(error)})"
            self._writer.event("probe-off", message, step=self._step, severity="warning")

    def finish(self, step: int, device: torch.device) -> Latest:
        """Look once more at the end of a sampled step and hand everything read to the writer.

        Returns positions and values of the labelled series, by name and step.
        """
        self.sampler.look(Moment.STEP, StepView(step, device), step)
        self._before.clear()
        self._loss_facts.forget()
        self._samples += 1
        if self._samples == _SAMPLES_UNTIL_MISSED:
            self._say_what_is_missed(step)
        return self.sampler.flush()

    def conclude(self, step: int) -> Latest:
        """Hand over what was read of other optimizers since `step`, the last; say what was never seen."""
        if 0 < self._samples < _SAMPLES_UNTIL_MISSED:
            self._say_what_is_missed(step)
            self._samples = _SAMPLES_UNTIL_MISSED
        self.sampler.drop_after(step)
        return self.sampler.flush()

    def _say_what_is_missed(self, step: int) -> None:
        no_modules = self.subject is not None and not self.subject.models
        why = "no module owns the parameters" if no_modules else "no forward pass of a module was seen"
        missed: dict[str, tuple[Moment, ...]] = {"no loss function of torch was seen": (Moment.LOSS,)}
        if not self.compiled:
            missed[why] = (Moment.INPUT, Moment.MODULE)
        for because, moments in missed.items():
            series = self.sampler.series_of(*(m for m in moments if m not in self._seen))
            if series:
                data = {"series": series, "because": because}
                self._writer.event("unseen", f"{because}: {', '.join(series)} are not recorded", step=step, data=data)

    def gradient_norms(self, latest: Latest) -> Iterator[tuple[Track, int, float]]:
        """(optimizer, step, norm of all its gradients together) where all of them were measured."""
        plan, subject = self.plan, self.subject
        if plan is None or subject is None:
            return
        for owner, track in enumerate(subject.tracks):
            own = {i: chunk for i, chunk in enumerate(self.sampler.chunks) if chunk.owner == owner}
            if not own.keys() <= set(plan.chunks):
                continue
            where = np.array([p for chunk in own.values() for p in chunk.positions])
            for (name, step), (positions, values) in latest.items():
                mine = np.isin(positions, where)
                if name == "gradient_rms" and mine.any():
                    sizes = np.array([subject.sizes[int(p)] for p in positions[mine]], dtype=np.float64)
                    yield track, step, float(np.sqrt(np.sum(sizes * values[mine] ** 2)))

    def bad_gradients(self, latest: Latest) -> list[str]:
        """Names of the parameters whose gradient held non-finite entries, in forward order."""
        if self.subject is None:
            return []
        bad = {
            int(p) for (name, _), (at, shares) in latest.items() if name == "nonfinite_share" for p in at[shares > 0]
        }
        return [self.subject.labels[position] for position in sorted(bad)]
