"""Takes snapshots: what a step's loss was computed of, when one is due, and which probes the budget pays for."""

from __future__ import annotations

import dataclasses
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from separatrix.record.budget import Budget
from separatrix.record.exposures import Exposure, Heard, batch_of
from separatrix.record.isolation import in_words
from separatrix.record.ownership import Model
from separatrix.record.process import used_bytes
from separatrix.record.replay import Call, ReplayError, copied
from separatrix.record.shadow import RandomState, Shadow, copied_bytes, undisturbed
from separatrix.record.sightings import same_memory
from separatrix.record.snapshot import Batch, OutOfTimeError, Snapshot
from separatrix.record.snapshot_schedule import Schedule, Standing
from separatrix.record.subject import Subject
from separatrix.record.tracks import Track
from separatrix.runs.errors import SeparatrixError
from separatrix.runs.probe import LossView, Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec
from separatrix.runs.writer import RunWriter

_FAILURES_ALLOWED = 3
_PATIENCE = 2.0
"""A probe is given this multiple of the time expected of it."""
_SHORTEST_SECONDS = 0.02
_COPIES = 2
"""Copies of the model that are held: the replay, and the parameters at the first snapshot."""
_ASSUMED_BYTES = 1 << 29


class MemoryBudgetError(SeparatrixError):
    """A model too large to be copied within the memory budget."""


class Snapshots:
    """Catches the steps that are due and runs the probes of snapshots on them within their part of the budget."""

    def __init__(self, writer: RunWriter, probes: Sequence[Probe], budget: Budget, memory_budget: float = 1.0) -> None:
        self._writer = writer
        self._budget = budget
        self._memory_budget = memory_budget
        self._schedule = Schedule([probe for probe in probes if probe.moment is Moment.SNAPSHOT], budget)
        self._wanted = False
        self._exposure: Exposure | None = None
        self._shadow: Shadow | None = None
        self._root: weakref.ref[torch.nn.Module] | None = None
        self._initial: dict[str, torch.Tensor] | None = None
        self._memory: dict[str, Any] = {}
        self._said: set[str] = set()
        self._developing = False
        self._compiled = False
        self._told: tuple[torch.Tensor, np.ndarray] | None = None

    @property
    def developing(self) -> bool:
        """Whether probes run now: what torch does meanwhile is no part of the training."""
        return self._developing

    # Planning

    def plan(self, step: int) -> bool:
        """Whether `step` is to be caught: one is due and its next probe can be paid."""
        self._exposure = None
        self._wanted = self._schedule.plan(step)
        return self._wanted

    def asleep_until(self, step: int) -> int:
        """No step before this one will be caught."""
        return self._schedule.asleep_until(step)

    def leave_out(self) -> None:
        """The step going on was planned, or is seen in another way, only after it began: leave it out."""
        self._wanted = False
        self._exposure = None

    def begin_compiled(self) -> None:
        """Something is compiled from now on."""
        self._compiled = True
        self.leave_out()

    # Catching a step

    @property
    def catches(self) -> bool:
        """Whether the step going on is to be caught, and no loss was backwarded in it yet."""
        return self._wanted and (self._exposure is None or self._exposure.batch is None)

    @property
    def exposed(self) -> bool:
        """Whether the model has been called in a step that is to be caught, and its loss was not yet backwarded."""
        return self._exposure is not None and self._exposure.batch is None

    def forward_begins(self, model: Model, arguments: tuple[Any, ...]) -> None:
        """The model is called in a step that is to be caught; of several calls the last before a backward counts."""
        device = next((p.device.type for p in model.module.parameters()), "cpu")
        dtypes = {p.dtype for p in model.module.parameters()}
        if torch.is_autocast_enabled(device):
            dtypes.add(torch.get_autocast_dtype(device))
        call = Call(copied(arguments), {}, RandomState.now(), tuple(dtypes), device)
        same = self._root is not None and self._root() is model.module
        if self._shadow is None or not same or not self._shadow.fits(model.module):
            self._make_shadow(model)
        assert self._shadow is not None
        self._shadow.load()
        copies = self._shadow.module.parameters()
        before: dict[str, torch.Tensor] = {label: p for (label, _), p in zip(model.parameters(), copies, strict=True)}
        self._exposure = Exposure(model, call, before)

    def _make_shadow(self, model: Model) -> None:
        self._shadow = None
        self._check_memory(model.module)
        self._shadow = Shadow(model.module)
        self._root = weakref.ref(model.module)
        self._memory.clear()
        self._initial = None

    def _check_memory(self, module: torch.nn.Module) -> None:
        wanted = _COPIES * copied_bytes(module)
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        used = used_bytes(device) or _ASSUMED_BYTES
        if wanted > self._memory_budget * used:
            raise MemoryBudgetError(
                f"copies of the model take {wanted / 1e6:.0f} MB, more than memory_budget={self._memory_budget:g} of"
                f" the {used / 1e6:.0f} MB in use: allow {min(1.0, 1.1 * wanted / used):.2g} to have snapshots"
            )

    def give_up(self, error: Exception) -> None:
        """The model cannot be copied, or its call not be kept."""
        self._wanted = False
        self._schedule.skip()
        self._unseen(str(error) if isinstance(error, SeparatrixError) else in_words(error), self._schedule.step)

    def forward_ended(self, keywords: Mapping[str, Any], result: Any) -> None:
        """That call has returned."""
        exposure = self._exposure
        if exposure is not None and exposure.batch is None:
            exposure.call = dataclasses.replace(exposure.call, keywords=copied(dict(keywords)))
            exposure.result = result

    def told_examples(self, outputs: torch.Tensor, positions: np.ndarray) -> None:
        """The rows of a loss of these outputs, about to be heard of, are the examples at these positions."""
        if self.exposed:
            self._told = outputs, positions

    def loss_computed(self, view: LossView, result: torch.Tensor) -> None:
        """A loss function of torch was called after, or inside, that call."""
        exposure = self._exposure
        if exposure is not None and exposure.batch is None and result.grad_fn is not None:
            told, self._told = self._told, None
            examples = told[1] if told is not None and same_memory(told[0], view.outputs) else None
            losses = result.detach().clone()  # the training may change them in place
            exposure.heard.append(Heard(view, losses, result.grad_fn, examples))

    def backward_begins(self, loss: torch.Tensor, value: float) -> None:
        """A loss is about to be backwarded: learn how it follows from the model's output."""
        exposure = self._exposure
        if exposure is None or exposure.batch is not None or exposure.result is None:
            return
        try:
            exposure.batch = batch_of(exposure, loss, value)
        except ReplayError as error:
            exposure.why = str(error)
        # The graph and all it holds belong to the training.
        exposure.result = None
        exposure.heard.clear()

    # Developing it

    def develop(self, step: int, track: Track, subject: Subject, passes: int = 1) -> None:
        """The step has ended, after that many backward passes: replay it and run the probes that can be paid."""
        exposure, self._exposure = self._exposure, None
        if not self._wanted:
            return
        self._wanted = False
        self._schedule.skip()
        begin = time.perf_counter()
        self._developing = True
        try:
            self._develop(exposure, step, track, subject, passes, begin)
        except (ReplayError, OutOfTimeError) as error:
            self._unseen(str(error), step)
        except Exception as error:
            self._unseen(in_words(error), step)
        finally:
            self._developing = False
            self._budget.take_from_purse(time.perf_counter() - begin)

    def _develop(
        self, exposure: Exposure | None, step: int, track: Track, subject: Subject, passes: int, begin: float
    ) -> None:
        if exposure is None:
            within = ", or within a compiled function" if self._compiled else ""
            raise ReplayError(f"the model was not called as a whole{within}")
        if exposure.batch is None or self._shadow is None:
            raise ReplayError(exposure.why)
        with undisturbed():
            snapshot = self._snapshot(exposure, exposure.batch, step, track, subject)
            self._prove(snapshot)
            snapshot.batch.stand_for(passes)
            proved = time.perf_counter()
            _ = snapshot.gradient
            now = time.perf_counter()
            self._schedule.learn(gradient=now - proved, fixed=now - begin)
            for standing in self._schedule.upcoming():
                if self._schedule.pays(standing, time.perf_counter() - begin):
                    self._run(standing, snapshot, step)

    def _prove(self, snapshot: Snapshot) -> None:
        try:
            snapshot.prove()
        except ReplayError as error:
            if not self._compiled:
                raise
            raise ReplayError(f"{error}: dropout that is compiled draws other random numbers") from error

    def _snapshot(self, exposure: Exposure, batch: Batch, step: int, track: Track, subject: Subject) -> Snapshot:
        assert self._shadow is not None
        live = dict(exposure.model.parameters())
        trained = {
            label: copy
            for label, copy in exposure.before.items()
            if label in live and copy.requires_grad and id(live[label]) in track.identities
        }
        if not trained:
            raise ReplayError("the optimizer that counts the steps trains none of the model's parameters")
        optimizer = track.optimizer
        owners = {} if optimizer is None else {id(p): g for g in optimizer.param_groups for p in g["params"]}
        self._initial = self._initial or {}
        for label, p in trained.items():
            if label not in self._initial:
                self._initial[label] = p.detach().clone()
        return Snapshot(
            step,
            self._shadow,
            trained,
            batch,
            prefix=exposure.model.prefix,
            optimizer=optimizer,
            update={label: live[label].detach().to(p.dtype) - p.detach() for label, p in trained.items()},
            groups={label: owners.get(id(live[label]), {}) for label in trained},
            states={} if optimizer is None else {label: optimizer.state.get(live[label], {}) for label in trained},
            initial=self._initial,
            memory=self._memory,
            examples=None if exposure.examples is None else exposure.examples.tolist(),
        )

    def _run(self, standing: Standing, snapshot: Snapshot, step: int) -> None:
        probe = standing.probe
        standing.last = step
        missing = _missing(probe, snapshot)
        if missing:
            self._unseen(f"probe {probe.name} needs {missing}", step, probe)
            return
        limit = max(_PATIENCE * self._schedule.expected(standing), _SHORTEST_SECONDS)
        snapshot.allow(limit)
        begin = time.perf_counter()
        try:
            readings = list(probe.measure(snapshot, self._memory.setdefault(f"probe:{probe.name}", {})))
            for reading in readings:
                self._write(probe, reading, step)
            for reason in snapshot.unseen:
                self._unseen(reason, step, probe)
        except OutOfTimeError:
            standing.seconds = _PATIENCE * limit
            self._say("aborted", f"probe {probe.name} was aborted: it takes longer than the budget allows", step, probe)
            return
        except Exception as error:
            self._failed(standing, error, step)
        finally:
            snapshot.allow(None)
            snapshot.unseen.clear()
        standing.learn(time.perf_counter() - begin)

    def _failed(self, standing: Standing, error: Exception, step: int) -> None:
        standing.failures += 1
        probe = standing.probe
        refused = isinstance(error, SeparatrixError)
        if refused:
            self._unseen(str(error), step, probe)
        if standing.failures < _FAILURES_ALLOWED:
            return
        self._schedule.standings.remove(standing)
        if refused:
            return
        reason = in_words(error)
        self._writer.event(
            "probe-off",
            f"probe {probe.name} was switched off after {standing.failures} failures ({reason})",
            step=step,
            severity="warning",
            data={"probe": probe.name, "series": [spec.name for spec in probe.series], "reason": reason},
        )

    def _write(self, probe: Probe, reading: Reading, step: int) -> None:
        spec = next(spec for spec in probe.series if spec.name == reading.series)
        if reading.at:
            spec = dataclasses.replace(spec, labels={**spec.labels, **reading.at})
        values = reading.values
        tensor = values.detach().reshape(-1).to("cpu") if isinstance(values, torch.Tensor) else None
        if not spec.dims:
            number = float(values) if tensor is None else float(tensor[0])
            self._writer.scalar(self._writer.series(spec), step, number)
            return
        assert tensor is not None, f"{reading.series} has labels: its values must be a tensor"
        if reading.positions is not None:
            self._place(spec, step, tensor, torch.tensor(reading.positions, dtype=torch.int32))
            return
        labels = reading.labels if reading.labels is not None else [str(i) for i in range(len(tensor))]
        if len(labels) != len(tensor):
            raise ValueError(f"a reading of {reading.series} has {len(tensor)} values for {len(labels)} labels")
        if len(labels):
            where = torch.tensor(self._writer.positions(spec.dims[0], list(labels)), dtype=torch.int32)
            self._place(spec, step, tensor, where)

    def _place(self, spec: SeriesSpec, step: int, values: torch.Tensor, where: torch.Tensor) -> None:
        order = torch.argsort(where)
        self._writer.vector(
            self._writer.series(spec), step, values[order].double().numpy(), positions=where[order].numpy()
        )

    def _unseen(self, reason: str, step: int, probe: Probe | None = None) -> None:
        self._say("unseen", f"no snapshot: {reason}" if probe is None else reason, step, probe, because=reason)

    def _say(self, kind: str, message: str, step: int, probe: Probe | None, because: str = "") -> None:
        key = f"{kind}:{probe.name if probe else ''}:{''.join(c for c in message if not c.isdigit())}"
        if key in self._said:
            return
        self._said.add(key)
        probes = [probe] if probe is not None else [s.probe for s in self._schedule.standings]
        data = {"series": [spec.name for p in probes for spec in p.series], "because": because or message}
        self._writer.event(kind, message, step=step, data=data)

    def forget(self) -> None:
        """Let go of the model and of everything kept of it."""
        self._exposure = self._shadow = self._root = self._initial = None
        self._memory.clear()


def _missing(probe: Probe, snapshot: Snapshot) -> str:
    if "outputs" in probe.needs and not snapshot.sees_outputs:
        return "what the loss function is given"
    if "classes" in probe.needs and snapshot.classes is None:
        return "class targets"
    return ""
