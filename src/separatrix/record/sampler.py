"""Runs the probes of sampled steps: what is due, what it will cost, in which order, and where the readings go."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from separatrix.record.budget import Budget, next_due, shortest_gap
from separatrix.record.isolation import in_words
from separatrix.runs.probe import Moment, Probe, Reading
from separatrix.runs.writer import RunWriter

_CHUNK_ENTRIES = 1 << 20
_CHUNK_TENSORS = 64
_FAILURES_ALLOWED = 3
_LEARNING = 0.3
_SECONDS_PER_ENTRY = 2.5e-9
_SECONDS_PER_CALL = 1e-4
_HOOK_SECONDS = 1e-5
_PARAMETER_SHARE = 0.6
_WHOLE, _WHOLE_SHARE = "samples", 0.4
"""A purse for samples: where steps are so short that what is recorded of every one takes the allowance, none would be
taken otherwise."""
_LIGHT, _LIGHT_SHARE = "light samples", 0.2
"""A purse for samples of losses and inputs alone: cheap ones, which tell of short scripts what few whole ones miss."""

_Placed = tuple[str, int, torch.Tensor | float, Sequence[int] | None, float]
_Readings = list[_Placed]


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Parameters of one optimizer that are measured together, and where their labels stand."""

    owner: int
    parameters: tuple[torch.Tensor, ...]
    positions: tuple[int, ...]
    groups: tuple[int, ...]

    @functools.cached_property
    def entries(self) -> int:
        """Numbers in these parameters."""
        return sum(p.numel() for p in self.parameters)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the step to come will be asked: which chunks of parameters and which leaf modules."""

    chunks: tuple[int, ...]
    modules: frozenset[str]


def chunked(rows: Iterable[tuple[int, torch.Tensor, int, int]]) -> list[Chunk]:
    """Rows of (owner, parameter, label position, group) cut into chunks of bounded size, in order."""
    chunks: list[Chunk] = []
    current: list[tuple[int, torch.Tensor, int, int]] = []

    def close() -> None:
        if current:
            owners, parameters, positions, groups = zip(*current, strict=True)
            chunks.append(Chunk(owners[0], parameters, positions, groups))
            current.clear()

    entries = 0
    for row in rows:
        owner, parameter, _, _ = row
        if current and (
            owner != current[0][0]
            or parameter.device != current[0][1].device
            or entries + parameter.numel() > _CHUNK_ENTRIES
            or len(current) >= _CHUNK_TENSORS
        ):
            close()
            entries = 0
        current.append(row)
        entries += parameter.numel()
    close()
    return chunks


class Sampler:
    """Plans samples within the budget, runs the probes and hands readings to the writer, all of a step at once."""

    def __init__(self, writer: RunWriter, probes: Sequence[Probe], budget: Budget) -> None:
        self._writer = writer
        self._budget = budget
        self._by_moment = {
            moment: sorted((p for p in probes if p.moment is moment), key=lambda p: p.priority) for moment in Moment
        }
        self._states: dict[str, dict[str, Any]] = {}
        self._failures: dict[str, int] = {}
        self._off: set[str] = set()
        own = [probe for probe in probes if probe.moment not in (Moment.SNAPSHOT, Moment.EXAMPLE)]
        self._series = {spec.name: (spec, writer.series(spec)) for probe in own for spec in probe.series}
        self._costs: dict[str, float] = {}
        self._taken: dict[str, float] = {}
        self._readings: _Readings = []
        self._staged: dict[object, _Readings] = {}
        self._classes: list[int] = []
        self._due = self._light_due = 1
        self._is_light = False
        self.asleep_until = 0
        """No step before this one will be sampled."""
        self._last = 0
        self._cursor = {"chunk": 0, "module": 0}
        self._missed_modules = False
        self._expected: tuple[float, float, float] | None = None
        self.chunks: list[Chunk] = []
        self.modules: list[str] = []
        if self._by_moment[Moment.LOSS] or self._by_moment[Moment.INPUT]:
            budget.set_aside(_LIGHT_SHARE, _LIGHT, saves=False)
        budget.set_aside(_WHOLE_SHARE, _WHOLE)

    def measure(self, chunks: list[Chunk], modules: list[str]) -> None:
        """Sample these parameters and leaf modules from now on."""
        self.chunks, self.modules = chunks, modules
        self._costs.clear()
        self._expected = None

    def wants(self, moment: Moment) -> bool:
        """Whether any probe still on looks at this moment."""
        return any(p.name not in self._off for p in self._by_moment[moment])

    def plan(self, step: int) -> Plan | None:
        """What to ask of `step`, or None when it is not due or the allowance does not pay for a sample."""
        self._is_light = False
        planned = self._plan_whole(step)
        if planned is not None:
            self._light_due = next_due(step)
            return planned
        wake = self.asleep_until
        planned = self._plan_light(step)
        self.asleep_until = min(wake, self.asleep_until)
        return planned

    def _plan_light(self, step: int) -> Plan | None:
        """A sample of losses and inputs alone, where it is due and its purse pays for it."""
        if step < self._light_due:
            self.asleep_until = self._light_due
            return None
        if self._expected is None:
            self._expected = self._expectation()
        _, cost, _ = self._expected
        missing = cost - self._budget.purse(cost, _LIGHT)
        if missing > 0.0:
            self.asleep_until = step + self._budget.steps_until(missing / _LIGHT_SHARE, step)
            return None
        self._is_light = True
        self._light_due = next_due(step)
        return Plan((), frozenset())

    def _plan_whole(self, step: int) -> Plan | None:
        self.asleep_until = step + 1
        if step < self._due and step != self._last and step - self._last < shortest_gap(step):
            self.asleep_until = max(step + 1, min(self._due, self._last + shortest_gap(step)))
            return None
        if self._expected is None:
            self._expected = self._expectation()
        least, fixed, full = self._expected
        left = self._budget.purse(fixed + full, _WHOLE) + max(0.0, self._budget.balance(fixed + least)) - fixed
        needed = least if step >= self._due else max(least, 0.5 * full)
        if left < needed:
            self.asleep_until = step + self._budget.steps_until((needed - left) / _WHOLE_SHARE, step)
            return None
        share = _PARAMETER_SHARE if self.modules else 1.0
        first = self._first()
        taken = {first: self._affordable(first, max(least, left * share))}
        left -= sum(map(self._cost_of(first), taken[first]))
        other = "chunk" if first == "module" else "module"
        taken[other] = self._affordable(other, left, at_least=0)
        chunks, modules = taken["chunk"], taken["module"]
        self._missed_modules = not modules
        self._last, self._due = step, next_due(step)
        return Plan(tuple(sorted(chunks)), frozenset(self.modules[i] for i in modules))

    def _expectation(self) -> tuple[float, float, float]:
        """Seconds expected of the next chunk, of what every sample needs, and of all chunks and modules together."""
        first = self._first()
        least = self._cost_of(first)(self._cursor[first] % self._items(first)) if self._items(first) else 0.0
        fixed = self._cost("loss", _SECONDS_PER_CALL * 2) + self._cost("input", _SECONDS_PER_CALL)
        chunks = sum(self._chunk_cost(i) for i in range(len(self.chunks)))
        modules = sum(self._module_cost(i) for i in range(len(self.modules)))
        return least, fixed + _HOOK_SECONDS * len(self.modules), chunks + modules

    def _items(self, kind: str) -> int:
        return len(self.chunks) if kind == "chunk" else len(self.modules)

    def _upcoming(self, kind: str) -> Iterator[int]:
        count = self._items(kind)
        for offset in range(count):
            yield (self._cursor[kind] + offset) % count

    def _first(self) -> str:
        """What the next sample sees before anything else: parameters, unless the last one saw no module."""
        return "module" if self._missed_modules and self.modules else "chunk"

    def _cost_of(self, kind: str) -> Callable[[int], float]:
        return self._chunk_cost if kind == "chunk" else self._module_cost

    def _affordable(self, kind: str, seconds: float, at_least: int = 1) -> list[int]:
        chosen: list[int] = []
        cost = self._cost_of(kind)
        for item in self._upcoming(kind):
            seconds -= cost(item)
            if seconds < 0.0 and len(chosen) >= at_least:
                break
            chosen.append(item)
        if chosen:
            self._cursor[kind] = (chosen[-1] + 1) % self._items(kind)
        return chosen

    def _chunk_cost(self, index: int) -> float:
        return self._cost(f"chunk:{index}", 3 * _SECONDS_PER_CALL + _SECONDS_PER_ENTRY * self.chunks[index].entries)

    def _module_cost(self, index: int) -> float:
        return self._cost(f"module:{self.modules[index]}", _SECONDS_PER_CALL)

    def _cost(self, key: str, prior: float) -> float:
        return self._costs.get(key, prior)

    def add_cost(self, key: str, seconds: float) -> None:
        """Note time that `key` took in this step; the cost expected of it is corrected when the step is flushed."""
        self._taken[key] = self._taken.get(key, 0.0) + seconds

    def _learn(self) -> None:
        taken = sum(self._taken.values())
        if self._is_light:
            self._budget.take_from_purse(taken, _LIGHT)
        else:
            # What the purse does not hold was paid from the balance.
            self._budget.take_from_purse(min(taken, max(0.0, self._budget.purse(taken, _WHOLE))), _WHOLE)
        for key, seconds in self._taken.items():
            known = self._costs.get(key)
            self._costs[key] = seconds if known is None else known + _LEARNING * (seconds - known)
        self._taken.clear()
        self._expected = None

    def look(self, moment: Moment, view: object, step: int, positions: Sequence[int] | None = None) -> None:
        """Run the probes of `moment` on `view`; readings over labels of the view go to the labels at `positions`."""
        self._look(self._readings, moment, view, step, positions)

    def look_again(self, key: object, moment: Moment, views: Iterable[tuple[object, int, Sequence[int]]]) -> None:
        """Run probes on (view, step, positions); the readings count if `commit(key)` follows before another look."""
        staged = self._staged[key] = []
        for view, step, positions in views:
            self._look(staged, moment, view, step, positions)

    def commit(self, key: object) -> None:
        """What `look_again` last read under `key` is part of the step."""
        self._readings += self._staged.pop(key, [])

    def _look(
        self, readings: _Readings, moment: Moment, view: object, step: int, positions: Sequence[int] | None
    ) -> None:
        for probe in self._by_moment[moment]:
            if probe.name in self._off:
                continue
            try:
                with torch.no_grad():
                    for reading in probe.measure(view, self._states.setdefault(probe.name, {})):
                        readings.append(self._placed(reading, step, positions))
            except Exception as error:
                self._failed(probe, error, step)

    def _placed(self, reading: Reading, step: int, positions: Sequence[int] | None) -> _Placed:
        spec, _ = self._series[reading.series]
        where: Sequence[int] | None = None
        if spec.dims == ("class",):
            labels = range(len(reading.values)) if reading.positions is None else reading.positions  # type: ignore[arg-type]
            where = self._class_positions(labels)
        elif spec.dims and positions is not None:
            where = positions if reading.positions is None else [positions[i] for i in reading.positions]
        values = reading.values if isinstance(reading.values, torch.Tensor) else float(reading.values)
        if isinstance(values, torch.Tensor):
            _check_readable(values, 1 if where is None else len(where), reading.series)
        return reading.series, step, values, where, reading.weight

    def _class_positions(self, labels: Sequence[int]) -> Sequence[int]:
        highest = max(labels, default=-1)
        if highest >= len(self._classes):
            self._classes = self._writer.positions("class", [str(i) for i in range(highest + 1)])
        return [self._classes[i] for i in labels]

    def _failed(self, probe: Probe, error: Exception, step: int) -> None:
        count = self._failures[probe.name] = self._failures.get(probe.name, 0) + 1
        if count < _FAILURES_ALLOWED:
            return
        self._off.add(probe.name)
        reason = in_words(error)
        self._writer.event(
            "probe-off",
            f"probe {probe.name} was switched off after {count} failures ({reason})",
            step=step,
            severity="warning",
            data={"probe": probe.name, "series": [spec.name for spec in probe.series], "reason": reason},
        )

    def flush(self) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]:
        """Move the readings of the step to the host in one go, average repeated ones and hand them to the writer.

        Returns positions and values of the labelled series, by name and step, for what is derived from them.
        """
        readings, self._readings = self._readings, []
        self._staged.clear()
        self._learn()
        if not readings:
            return {}
        host = _on_host([values for _, _, values, _, _ in readings])
        grouped: dict[tuple[str, int], list[tuple[np.ndarray, Sequence[int] | None, float]]] = {}
        for (name, step, _, where, weight), values in zip(readings, host, strict=True):
            grouped.setdefault((name, step), []).append((values, where, weight))
        latest: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
        for (name, step), parts in grouped.items():
            series = self._series[name][1]
            if parts[0][1] is None:
                weights = np.array([weight for _, _, weight in parts])
                scalars = np.array([float(values[0]) for values, _, _ in parts])
                self._writer.scalar(series, step, float(weights @ scalars / weights.sum()))
                continue
            positions, averaged = _averaged(parts)
            latest[name, step] = positions, averaged
            contiguous = len(positions) == positions[-1] - positions[0] + 1
            if contiguous:
                self._writer.vector(series, step, averaged, first=int(positions[0]))
            else:
                self._writer.vector(series, step, averaged, positions=positions)
        return latest

    def drop(self) -> None:
        """Forget the readings of a step that did not happen."""
        self._readings.clear()
        self._staged.clear()
        self._taken.clear()
        self._expected = None

    def forget(self, moment: Moment, positions: Sequence[int]) -> None:
        """Drop the readings of a moment, at labels of `positions`, that a later look replaces."""
        names, where = set(self.series_of(moment)), set(positions)
        self._readings = [r for r in self._readings if r[0] not in names or not where.intersection(r[3] or ())]

    def drop_after(self, step: int) -> None:
        """Forget the readings of steps after `step`, which did not end."""
        self._readings = [reading for reading in self._readings if reading[1] <= step]

    def series_of(self, *moments: Moment) -> list[str]:
        """Names of the series that the probes of these moments yield."""
        return [spec.name for moment in moments for probe in self._by_moment[moment] for spec in probe.series]


def _check_readable(values: torch.Tensor, count: int, series: str) -> None:
    """Refuse here, on behalf of one probe, what would spoil the readings of all when they are moved together."""
    if values.numel() != count:
        raise ValueError(f"a reading of {series} has {values.numel()} values for {count} labels")
    if values.layout is not torch.strided or values.is_meta or values.is_complex():
        raise ValueError(f"a reading of {series} holds no plain real numbers")


def _averaged(parts: list[tuple[np.ndarray, Sequence[int] | None, float]]) -> tuple[np.ndarray, np.ndarray]:
    if len(parts) == 1:
        positions = np.asarray(parts[0][1], dtype=np.int32)
        if len(positions) < 2 or bool((np.diff(positions) > 0).all()):
            return positions, parts[0][0]
    flat = np.fromiter(itertools.chain.from_iterable(p[1] or () for p in parts), dtype=np.int32)
    values = np.concatenate([values for values, _, _ in parts])
    weights = np.concatenate([np.full(len(values), weight) for values, _, weight in parts])
    positions, inverse = np.unique(flat, return_inverse=True)
    totals = np.bincount(inverse, weights=weights * values, minlength=len(positions))
    return positions, totals / np.bincount(inverse, weights=weights, minlength=len(positions))


def _on_host(values: list[torch.Tensor | float]) -> list[np.ndarray]:
    """Each value as a flat float64 array; tensors cross from their device in one transfer."""
    tensors = [v.detach().reshape(-1) for v in values if isinstance(v, torch.Tensor)]
    moved: Iterator[np.ndarray] = iter(())
    if tensors:
        devices = {t.device for t in tensors}
        if len(devices) > 1:
            tensors = [t.cpu() for t in tensors]
        joined = torch.cat([t.to(torch.float64 if t.dtype == torch.float64 else torch.float32) for t in tensors])
        flat = joined.cpu().numpy().astype(np.float64)
        moved = iter(np.split(flat, np.cumsum([t.numel() for t in tensors])[:-1]))
    return [next(moved) if isinstance(v, torch.Tensor) else np.array([v], dtype=np.float64) for v in values]
