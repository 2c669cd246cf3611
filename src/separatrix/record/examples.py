"""Follows single examples through a training: which ones each loss is of, and what probes read of them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from separatrix.record.batches import NO_BATCH, Batch, Batches, Match
from separatrix.record.contents import Contents
from separatrix.record.guard import guarded
from separatrix.record.isolation import in_words
from separatrix.record.items import fetched
from separatrix.record.loading import Loadings
from separatrix.record.losses import is_plain, view_of_call
from separatrix.record.origins import Origin, Origins, base
from separatrix.record.passes import Passes, Turns
from separatrix.record.readings import Readings
from separatrix.record.series import EPOCH
from separatrix.record.sightings import Found, Staged, by_rows, same_memory
from separatrix.record.training import Listener, Training
from separatrix.runs.probe import Probe

_PURSE = "examples"
_SHARE = 0.5
_MOST_HASHED = 1 << 18
_ONCE = ("example_target",)
"""Series that an example has one value of."""

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _paid(listener: _Method) -> _Method:
    """Guarded, and paid from the purse of examples."""
    safe = guarded(listener)

    @functools.wraps(listener)
    def paid(self: Examples, *args: Any) -> Any:
        begin = time.perf_counter()
        result = safe(self, *args)
        seconds = time.perf_counter() - begin
        self.seconds += seconds
        self.budget.take_from_purse(seconds, _PURSE)
        return result

    return paid  # type: ignore[return-value]


class Examples(Listener):
    """Hears DataLoaders, items of `indexed` datasets, and losses; turns them into series over examples.

    Whole passes through the data are recorded, as many as a share of the budget pays for. What cannot be told gives one
    event a reason, and no values.
    """

    def __init__(self, training: Training, probes: Sequence[Probe]) -> None:
        super().__init__(training)
        self.seconds = 0.0
        """Time spent on the pass in progress."""
        self._readings = Readings(training.writer, probes)
        self._passes = Passes(self.writer)
        for probe in probes:
            for spec in probe.series:
                self._passes.declare(spec)
        self._epoch_series = self.writer.series(EPOCH)
        self._loadings = Loadings()
        self._batches = Batches()
        self._origins = Origins()
        self._contents = Contents(self.observer)
        self._hashed = self._origins.add()
        self._named = self._origins.add()
        self._turns = Turns()
        self._given: list[Hashable] | None = None
        self._way = ""
        self._staged: list[Staged] = []
        self._staged_at = 0
        self._told = np.zeros(0, bool)
        self._said: set[str] = set()
        self._loading = 0
        self._epoch = 0
        self._unmarked = False
        self._cost = 0.0
        self._skipping = False
        self._awake = False
        self._skipped: set[tuple[Origin, Hashable]] = set()
        self._rows_skipped = 0
        self._any = False
        self.observer.on_attached = self._look_at_contents
        self.observer.on_compiled = self._contents.disarm
        self.budget.set_aside(_SHARE, _PURSE)

    def start(self) -> None:
        """Begin to listen to items and inputs; DataLoaders and losses are heard through patches."""
        fetched.append(self.on_item)
        self._look_at_contents()

    def stop(self) -> None:
        """Listen no more for now."""
        if self.on_item in fetched:
            fetched.remove(self.on_item)
        self._contents.disarm()
        self._batches.clear()

    @_paid
    def conclude(self) -> None:
        """The recording ends: what is known of the pass in progress is a row."""
        self._commit()
        if not self._skipping:
            self._passes.end(self.step)
        if self.step and not self._any and not self._said:
            self._say("no loss of a kind and form that is known was seen in training")
        if self.step and self.training.thumbnails is not None and not self.training.thumbnails.sees_images:
            message = "no thumbnails: no DataLoader or indexed dataset gave images that a loss is of"
            self.writer.event("unseen", message, step=self.step, data={"series": [], "because": message})

    def _look_at_contents(self) -> None:
        """Look at what models are called with, unless batches have shown already what is trained on."""
        if self._way != "batches" and not self._skipping and self.on_item in fetched:
            self._contents.arm()

    # What is fetched

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Around a DataLoader's fetching: items that it asks for itself are part of its batch."""
        self._loading += 1
        try:
            yield
        finally:
            self._loading -= 1

    @_paid
    def on_indices(self, iterator: Any, indices: Any) -> None:
        """A DataLoader has drawn the indices of a batch to come."""
        self._loadings.asked(iterator, indices)

    @_paid
    def on_batch(self, iterator: Any, data: Any) -> None:
        """A DataLoader gives a batch; what is fetched with gradients disabled is not trained on."""
        given = self._loadings.given(iterator)
        if given is None or not torch.is_grad_enabled() or self.observer.snapshots.developing:
            return
        if isinstance(given, str):
            self._say(given)
            self._go_by_batches()
            return
        indices, key = given
        origin = self._fetched(iterator._dataset, indices, key, data)
        loading = self._loadings.of(iterator)
        if loading is not None and origin is not None:
            loading.last = origin, key

    @_paid
    def on_end(self, iterator: Any) -> None:
        """A DataLoader has no more batches."""
        loading = self._loadings.of(iterator)
        if loading is not None and loading.last is not None:
            self._turns.ended(*loading.last)

    def on_item(self, dataset: Any, index: Any, item: Any) -> None:
        """An item of an indexed dataset, or several at once, is given to the script."""
        if self.active and not self._loading and torch.is_grad_enabled():
            self._on_item(dataset, index, item)

    @_paid
    def _on_item(self, dataset: Any, index: Any, item: Any) -> None:
        if self._skipping and not self._awake:
            return
        if isinstance(index, slice):
            ids = np.arange(len(dataset))[index]
        else:
            ids = np.asarray(index)
            ids = np.flatnonzero(ids) if ids.dtype == bool else ids
        self._fetched(dataset, np.atleast_1d(ids), None, item, single=ids.ndim == 0)

    def _fetched(
        self, dataset: Any, indices: np.ndarray, key: Hashable, data: Any, single: bool = False
    ) -> Origin | None:
        try:
            root, ids = base(dataset, indices)
        except ValueError as error:
            self._say(str(error))
            return None
        origin = self._origins.of(root)
        if self._skipping and key is not None:
            if (origin, key) in self._skipped:
                return origin
            self._skipped.add((origin, key))
            self._awake = True
        batch = Batch.of(origin, key, ids, data, trusted=key is None)
        if single:
            self._batches.add_item(batch)
        else:
            self._batches.add(batch)
        return origin

    @contextlib.contextmanager
    def given(self, ids: Sequence[Hashable]) -> Iterator[None]:
        """The losses computed inside are of the examples with these ids, in this order."""
        outer = self._given
        self._given = [item.item() if hasattr(item, "item") else item for item in ids]
        try:
            yield
        finally:
            self._given = outer

    # Losses

    def on_loss(self, kind: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """A loss function was computed with gradients enabled."""
        if not self.active:
            return
        if self._skipping and not self._awake:
            self._count_skipped(args)
            return
        self._on_example_loss(kind, args, kwargs, result)

    def _count_skipped(self, args: Sequence[Any]) -> None:
        """Where no loader tells when the next pass begins, it does after as many examples as the last one had."""
        outputs = args[0] if args else None
        if isinstance(outputs, torch.Tensor) and self._turns.key(self._turns.leading) is None:
            self._rows_skipped += outputs.shape[0] if outputs.dim() else 1
            if self._rows_skipped >= self._turns.examples(self._turns.leading):
                self._awake = True
                if self._way == "contents":
                    self._contents.arm()

    @_paid
    def _on_example_loss(self, kind: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        if (
            not self.training.listens()
            or torch._C._current_graph_task_id() != -1
            or not is_plain(result)
            or not result.requires_grad
        ):
            return
        call = view_of_call(kind, args, kwargs)
        if call is None:
            return
        if self._staged_at != self.step:
            self._commit()
        view = by_rows(call)
        if isinstance(view, str):
            self._say(view)
            return
        outputs, targets = view.outputs, view.targets
        for earlier in self._staged:
            if same_memory(earlier.outputs, outputs):
                if earlier.kind != kind or not same_memory(earlier.targets, targets):
                    earlier.values = None
                    self._say("several losses are of the same outputs: mixed targets, or a sum of losses")
                return
        found = self._find(kind, targets, len(outputs))
        if isinstance(found, str):
            self._staged.append(Staged(outputs, targets, kind, None, None))
            if not self._skipping:
                self._say(found)
            return
        for earlier in self._staged:
            if earlier.found is not None and earlier.found.same_examples(found):
                # The same once more, as closures and two-point optimizers have it: the first one counts.
                if earlier.kind != kind or not same_memory(earlier.targets, targets):
                    earlier.values = None
                    self._say("an example has several losses in one step")
                return
        anew = self._skipping and found.key is None
        if self._turns.begins(found.origin, found.key, found.positions) or anew:
            self._begin_pass(len(outputs))
        if self._skipping:
            self._awake = False
            return
        self._staged.append(Staged(outputs, targets, kind, found, self._readings.of(view, self.step)))
        self.observer.snapshots.told_examples(outputs, found.positions)
        self._picture(found)

    def _picture(self, found: Found) -> None:
        thumbnails = self.training.thumbnails
        if thumbnails is None or self.writer.failure is not None:
            return
        try:
            thumbnails.note(found)
        except Exception as error:
            self.training.thumbnails = None
            self.writer.event("thumbnails-ended", f"no more thumbnails: {in_words(error)}", step=self.step)

    def _find(self, kind: str, targets: torch.Tensor, rows: int) -> Found | str:
        if self._given is not None:
            if len(self._given) != rows:
                return "as many ids as the loss has rows were not given"
            return self._of(self._named, None, self._given, self._given)
        match = self._batches.match(kind, targets, rows)
        if isinstance(match, Match):
            self._go_by_batches()
            batch = match.batch
            return dataclasses.replace(self._of(batch.origin, batch.key, match.ids, batch), match=match)
        if self._way == "batches" or (match != NO_BATCH and self._way != "contents"):
            return match
        if self._turns.examples(self._hashed) >= _MOST_HASHED:
            self._contents.disarm()
            return f"{_MOST_HASHED} inputs without a DataLoader were all different: they have no identity"
        hashes = self._contents.take(rows)
        if isinstance(hashes, str):
            return hashes
        self._way = "contents"
        return self._of(self._hashed, None, hashes, hashes)

    def _go_by_batches(self) -> None:
        """Losses are of what DataLoaders and datasets give: inputs need not be looked at."""
        if self._way != "batches":
            self._way = "batches"
            self._contents.disarm()

    def _of(self, origin: Origin, key: Hashable, ids: Any, batch: object) -> Found:
        if not origin.labelled:
            labelled = self._origins.labelled()
            origin.label(self.writer, f"{labelled + 1}/" if labelled else "")
        return Found(origin, key, origin.positions(ids), batch)

    # Passes

    def _begin_pass(self, rows: int) -> None:
        self._commit()
        if self._epoch and not self._skipping:
            self._passes.end(self.step)
            self._cost = self.seconds
        self.seconds = 0.0
        self._epoch += 1
        self._unmarked = True
        self._skipping = self._epoch > 1 and self.budget.purse(self._cost, _PURSE) < self._cost
        self._awake = False
        if self._skipping:
            self._mark(self.step + 1)
            self._skipped = self._turns.current()
            self._rows_skipped = rows
            self._batches.clear()
            self._contents.disarm()
            self._say_skipping()
        elif self._way == "contents":
            self._contents.arm()

    def _say_skipping(self) -> None:
        if "skipping" not in self._said:
            self._said.add("skipping")
            message = (
                f"a pass over the examples costs {self._cost:.3g} s, more than the budget pays for at each one:"
                " some passes are left out"
            )
            self.writer.event("budget", message, step=self.step, data={"series": self._readings.series})

    def _mark(self, step: int) -> None:
        if self._unmarked:
            self._unmarked = False
            self.writer.scalar(self._epoch_series, step, float(self._epoch))

    def _commit(self) -> None:
        """The step of what is staged is over: no further loss can take back what it says."""
        staged, self._staged = self._staged, []
        known = self._staged_at or not self.writer.segment
        # Before its first step a resumed training does not know which step that is.
        first = self._staged_at + 1 if known else max(1, self.step)
        self._staged_at = self.step
        for each in staged:
            if each.values is not None and each.found is not None:
                positions = each.found.positions
                self._any = True
                self._mark(first)
                self._turns.note(each.found.origin, positions)
                self._passes.add(first, positions, self._only_new(positions, each.values))

    def _only_new(self, positions: np.ndarray, values: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        size = int(positions.max(initial=-1)) + 1
        if size > len(self._told):
            self._told = np.concatenate([self._told, np.zeros(max(size, 2 * len(self._told)) - len(self._told), bool)])
        told = self._told[positions]
        self._told[positions] = True
        if not told.any():
            return values
        if told.all():
            return {name: known for name, known in values.items() if name not in _ONCE}
        return {name: np.where(told, np.nan, v) if name in _ONCE else v for name, v in values.items()}

    def _say(self, because: str) -> None:
        if because not in self._said:
            self._said.add(because)
            message = f"losses of single examples are not recorded where they cannot be told: {because}"
            self.writer.event(
                "unseen", message, step=self.step, data={"series": self._readings.series, "because": because}
            )
